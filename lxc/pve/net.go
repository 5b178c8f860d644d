package pve

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

// MaxNets is how many network interfaces a CT can have: net0 to net31.
const MaxNets = 32

// Net is a network interface that Proxmox makes, as the property net0… has it.
type Net struct {
	Index  int
	props  map[string]string
	random bool // the MAC address
}

// netKeys are what Proxmox knows of an interface, in the order in which it
// writes them. Whether a CT of type unmanaged configures its addresses by
// itself is nobody's to say.
var netKeys = []string{"name", "bridge", "firewall", "gw", "gw6", "host-managed", "hwaddr", "ip", "ip6", "link_down", "mtu", "rate", "tag", "trunks", "type"}

var netValue = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.:/;_\-]*$`)

// ParseNet reads "bridge=vmbr0,ip=10.0.0.2/24,gw=10.0.0.1,tag=20". What is not
// given is the bridge named, eth and the index, and a MAC address with Proxmox's prefix.
func ParseNet(index int, text, bridge string) (Net, error) {
	n := Net{Index: index, props: map[string]string{}}
	for field := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(field, "=")
		_, twice := n.props[key]
		switch {
		case !ok || !slices.Contains(netKeys, key) || key == "host-managed" || key == "type":
			return n, n.invalid(field, "is not one of bridge, firewall, gw, gw6, hwaddr, ip, ip6, link_down, mtu, name, rate, tag, trunks")
		case twice:
			return n, n.invalid(field, "is there twice")
		case !netValue.MatchString(value):
			return n, n.invalid(field, "has no value that Proxmox accepts")
		}
		n.props[key] = value
	}
	if err := n.checkAddresses(); err != nil {
		return n, err
	}
	n.random = n.props["hwaddr"] == ""
	for key, value := range map[string]string{"bridge": bridge, "name": fmt.Sprintf("eth%d", index), "type": "veth", "hwaddr": randomMAC()} {
		if _, ok := n.props[key]; !ok {
			n.props[key] = value
		}
	}
	if _, err := net.ParseMAC(n.props["hwaddr"]); err != nil {
		return n, n.invalid("hwaddr="+n.props["hwaddr"], "is no MAC address")
	}
	return n, nil
}

func (n Net) invalid(field, why string) error {
	return fmt.Errorf("net%d: %q %s: %w", n.Index, field, why, errdefs.ErrInvalidArgument)
}

// families are the keys of the two kinds of addresses, here and in LXC.
var families = []struct {
	ip, gw, lxc string
	v4          bool
}{{"ip", "gw", "ipv4", true}, {"ip6", "gw6", "ipv6", false}}

const dhcp = "dhcp"

// checkAddresses refuses what can not be set up: SLAAC, and gateways without address.
func (n Net) checkAddresses() error {
	for _, f := range families {
		ip, gw := n.props[f.ip], n.props[f.gw]
		if ip != "" && ip != dhcp && ip != "manual" {
			if p, err := netip.ParsePrefix(ip); err != nil || p.Addr().Is4() != f.v4 {
				return n.invalid(f.ip+"="+ip, "is neither an address with its prefix length, nor dhcp, nor manual")
			}
		}
		if gw == "" {
			continue
		}
		if a, err := netip.ParseAddr(gw); err != nil || a.Is4() != f.v4 {
			return n.invalid(f.gw+"="+gw, "is no address")
		}
		if !strings.Contains(ip, "/") {
			return n.invalid(f.gw+"="+gw, "needs an address")
		}
	}
	return nil
}

// dhcp says whether the host has to ask for an address: nobody in the container does.
func (n Net) dhcp() bool { return n.props["ip"] == dhcp || n.props["ip6"] == dhcp }

// prop is the property of the CT.
func (n Net) prop() Prop {
	var fields []string
	for _, key := range netKeys {
		if value, ok := n.props[key]; ok {
			fields = append(fields, key+"="+value)
		}
	}
	return Prop{fmt.Sprintf("net%d", n.Index), strings.Join(fields, ",")}
}

// lines let LXC bring the interface up with its addresses: Proxmox leaves that
// to the distribution in the container.
func (n Net) lines() []lxcconf.Line {
	key := fmt.Sprintf("lxc.net.%d.", n.Index)
	lines := []lxcconf.Line{lxcconf.Set(key+"flags", "up")}
	for _, f := range families {
		if ip := n.props[f.ip]; strings.Contains(ip, "/") {
			lines = append(lines, lxcconf.Set(key+f.lxc+".address", ip))
		}
		if gw := n.props[f.gw]; gw != "" {
			lines = append(lines, lxcconf.Set(key+f.lxc+".gateway", gw))
		}
	}
	return lines
}

// randomMAC has Proxmox's prefix.
func randomMAC() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("BC:24:11:%02X:%02X:%02X", b[0], b[1], b[2])
}

// keepMAC takes the MAC address that the CT had, unless another one is asked for:
// its lease in the network is by that.
func (n Net) keepMAC(old *Conf) {
	if !n.random {
		return
	}
	for field := range strings.SplitSeq(old.Get(fmt.Sprintf("net%d", n.Index)), ",") {
		if mac, ok := strings.CutPrefix(field, "hwaddr="); ok && netValue.MatchString(mac) {
			n.props["hwaddr"] = mac
		}
	}
}

// setupNets makes what differs between the versions of Proxmox: addresses by
// DHCP are the host's work from 9.1 on.
func (n *Node) setupNets(ctx context.Context, client *Client, nets []Net) error {
	for _, i := range nets {
		if !i.dhcp() {
			continue
		}
		v, err := n.version(ctx, client)
		if err != nil {
			return err
		}
		if !v.hostManagesNets() {
			return fmt.Errorf("net%d: dhcp: this Proxmox VE, %s, does not ask for an address for a CT; 9.1 does: use a static address: %w", i.Index, v, errdefs.ErrNotImplemented)
		}
		i.props["host-managed"] = "1"
	}
	return nil
}
