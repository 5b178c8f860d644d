// Package netdev moves network devices of the host into a container's network
// namespace, and back (runtime-spec 1.3.0, config-linux.md, "Network Devices").
//
// It is for the LXC backend. It makes no devices, and knows nothing of routes
// or name servers.
package netdev

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Device is a device on its way, with what it needs to come back.
type Device struct {
	Host string `json:"host"` // its name on the host
	// Name in the container: as asked for, maybe with %d, until Move knows it.
	Name string `json:"name"`
	// Index in the container, 0 before it is there.
	Index     int       `json:"index,omitempty"`
	Up        bool      `json:"up,omitempty"` // on the host
	Addresses []Address `json:"addresses,omitempty"`
}

// Address is a permanent address of global scope.
type Address struct {
	CIDR      string `json:"cidr"`
	Peer      string `json:"peer,omitempty"`
	Label     string `json:"label,omitempty"`
	Broadcast string `json:"broadcast,omitempty"`
	Flags     int    `json:"flags,omitempty"` // IFA_F_
}

// Find looks at a device of the host: of the network namespace of the caller.
// name is what it is to be called in the container, "" for the same.
func Find(host, name string) (Device, error) {
	if name == "" {
		name = host
	}
	d := Device{Host: host, Name: name}
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return d, failed(host, "open netlink", err)
	}
	defer here.Close()
	link, err := here.LinkByName(host)
	if err != nil {
		return d, failed(host, "find the device on the host", err)
	}
	d.Up = link.Attrs().RawFlags&unix.IFF_UP != 0
	if d.Addresses, err = addresses(here, link); err != nil {
		return d, failed(host, "list addresses", err)
	}
	return d, nil
}

// addresses are those that the runtime-spec wants to be kept.
func addresses(h *netlink.Handle, link netlink.Link) ([]Address, error) {
	all, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	var kept []Address
	for _, a := range all {
		if a.Flags&unix.IFA_F_PERMANENT == 0 || a.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		k := Address{CIDR: a.IPNet.String(), Label: a.Label, Flags: a.Flags}
		if a.Peer != nil && a.Peer.String() != k.CIDR {
			k.Peer = a.Peer.String()
		}
		if len(a.Broadcast) > 0 {
			k.Broadcast = a.Broadcast.String()
		}
		kept = append(kept, k)
	}
	return kept, nil
}

// Move moves the device into the namespace, with its addresses, and sets it
// up. If it fails the device is on the host as it was.
func (d *Device) Move(namespace *os.File) (retErr error) {
	here, there, done, err := spaces(namespace)
	if err != nil {
		return failed(d.Host, "open netlink", err)
	}
	defer done()
	link, err := here.LinkByName(d.Host)
	if err != nil {
		return failed(d.Host, "find the device on the host", err)
	}
	if _, err := there.LinkByName(d.Name); err == nil {
		return fmt.Errorf("%s.name: %q: the network namespace has a device of that name: %w", path(d.Host), d.Name, errdefs.ErrFailedPrecondition)
	}
	known, err := indices(there)
	if err != nil {
		return failed(d.Host, "list the devices of the container", err)
	}
	if err := transfer(here, link.Attrs().Index, d.Name, there); err != nil {
		return failed(d.Host, fmt.Sprintf("move to the container as %q", d.Name), err)
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, d.Return(namespace))
		}
	}()
	moved, err := arrived(there, known, link.Attrs())
	if err != nil {
		return failed(d.Host, "find the device in the container", err)
	}
	d.Name, d.Index = moved.Attrs().Name, moved.Attrs().Index
	return configure(there, moved, d.Host, d.Addresses, true)
}

// Return moves the device back to the namespace of the caller, with the name,
// the addresses and the state that it had. A device that is not in the
// namespace any more is no error.
func (d *Device) Return(namespace *os.File) error {
	here, there, done, err := spaces(namespace)
	if err != nil {
		return failed(d.Host, "open netlink", err)
	}
	defer done()
	link, err := d.find(there)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil
	}
	if err != nil {
		return failed(d.Host, "find the device in the container", err)
	}
	if err := transfer(there, link.Attrs().Index, d.Host, here); err != nil {
		return failed(d.Host, "move back to the host", err)
	}
	if link, err = here.LinkByName(d.Host); err != nil {
		return failed(d.Host, "find the device on the host", err)
	}
	return configure(here, link, d.Host, d.Addresses, d.Up)
}

func (d *Device) find(there space) (netlink.Link, error) {
	if d.Index == 0 { // nobody knows whether Move was done
		return there.LinkByName(d.Name)
	}
	return there.LinkByIndex(d.Index)
}

// space is netlink in one network namespace.
type space struct {
	*netlink.Handle
	socket *nl.NetlinkSocket
	ns     netns.NsHandle
}

func openSpace(ns netns.NsHandle) (s space, err error) {
	s.ns = ns
	if s.socket, err = nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE); err != nil {
		return s, err
	}
	if s.Handle, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err != nil {
		s.socket.Close()
	}
	return s, err
}

func (s space) close() {
	s.Close()
	s.socket.Close()
}

// spaces are the caller's namespace and the container's, until done is called.
func spaces(namespace *os.File) (here, there space, done func(), err error) {
	own, err := netns.Get()
	if err != nil {
		return here, there, nil, err
	}
	if here, err = openSpace(own); err != nil {
		return here, there, nil, errors.Join(err, own.Close())
	}
	if there, err = openSpace(netns.NsHandle(namespace.Fd())); err != nil {
		here.close()
		return here, there, nil, errors.Join(err, own.Close())
	}
	return here, there, func() {
		there.close()
		here.close()
		_ = own.Close()
	}, nil
}

func indices(h space) (map[int]bool, error) {
	links, err := h.LinkList()
	known := map[int]bool{}
	for _, l := range links {
		known[l.Attrs().Index] = true
	}
	return known, err
}

// arrived finds the device that was not there before: name and index may be
// new ones.
func arrived(h space, known map[int]bool, was *netlink.LinkAttrs) (netlink.Link, error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if a := l.Attrs(); !known[a.Index] && a.HardwareAddr.String() == was.HardwareAddr.String() {
			return l, nil
		}
	}
	return nil, errdefs.ErrNotFound
}

// transfer moves and renames a device in one request, so that its old name
// needs not be free in the other namespace.
func transfer(from space, index int, name string, to space) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: from.socket}}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(to.ns))))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// configure gives a device its addresses, and sets it up.
func configure(h space, link netlink.Link, host string, list []Address, up bool) error {
	if up { // an IPv6 address does not outlive the device being down
		if err := h.LinkSetUp(link); err != nil {
			return failed(host, "set up", err)
		}
	}
	for _, a := range list {
		addr, err := a.parse(link.Attrs().Name)
		if err == nil {
			err = h.AddrReplace(link, addr)
		}
		if err != nil {
			return failed(host, "add the address "+a.CIDR, err)
		}
	}
	return nil
}

func (a Address) parse(device string) (*netlink.Addr, error) {
	addr, err := netlink.ParseAddr(a.CIDR)
	if err != nil {
		return nil, err
	}
	addr.Flags = a.Flags &^ unix.IFA_F_PERMANENT
	if a.Peer != "" {
		if addr.Peer, err = netlink.ParseIPNet(a.Peer); err != nil {
			return nil, err
		}
	}
	// A label begins with the name of the device.
	if _, alias, ok := strings.Cut(a.Label, ":"); ok {
		addr.Label = device + ":" + alias
	}
	return addr, nil
}

func path(host string) string { return fmt.Sprintf("linux.netDevices[%q]", host) }

// failed names the device by its JSON path.
func failed(host, doing string, err error) error {
	class := errdefs.ErrFailedPrecondition
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return fmt.Errorf("%s: %s: there is none: %w: %w", path(host), doing, err, class)
	}
	return fmt.Errorf("%s: %s: %w: %w", path(host), doing, err, class)
}
