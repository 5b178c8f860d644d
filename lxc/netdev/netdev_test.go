package netdev

import (
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// onNewHost runs f in a network namespace of its own, the host's here, with
// another one for the container.
func onNewHost(t *testing.T, f func(t *testing.T, container *os.File)) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	container := thisNamespace(t)
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	f(t, container)
}

func thisNamespace(t *testing.T) *os.File {
	t.Helper()
	ns, err := os.Open("/proc/thread-self/ns/net")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// inside calls f in the container's network namespace.
func inside(t *testing.T, container *os.File, f func()) {
	t.Helper()
	own := thisNamespace(t)
	require.NoError(t, unix.Setns(int(container.Fd()), unix.CLONE_NEWNET))
	defer func() { require.NoError(t, unix.Setns(int(own.Fd()), unix.CLONE_NEWNET)) }()
	f()
}

func addVeth(t *testing.T, name, peer string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.MTU = 1400
	attrs.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer}))
}

func addAddress(t *testing.T, name, cidr string, valid int) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	require.NoError(t, err)
	addr, err := netlink.ParseAddr(cidr)
	require.NoError(t, err)
	addr.ValidLft, addr.PreferedLft = valid, valid
	require.NoError(t, netlink.AddrAdd(link, addr))
}

// look describes a device: whether it is up, MTU, hardware address and the
// addresses of global scope.
func look(t *testing.T, name string) (up bool, mtu int, mac string, list []string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	require.NoError(t, err)
	all, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	require.NoError(t, err)
	for _, a := range all {
		if a.Scope == unix.RT_SCOPE_UNIVERSE {
			list = append(list, a.IPNet.String())
		}
	}
	attrs := link.Attrs()
	return attrs.RawFlags&unix.IFF_UP != 0, attrs.MTU, attrs.HardwareAddr.String(), list
}

func absent(t *testing.T, name string) {
	t.Helper()
	_, err := netlink.LinkByName(name)
	assert.Error(t, err, name)
}

func TestADeviceGoesAndComesBackWithItsAddresses(t *testing.T) {
	for name, tc := range map[string]struct {
		as, want string
		up       bool
	}{
		"same name":             {"", "nx0", true},
		"another name":          {"eth7", "eth7", true},
		"a template":            {"net%d", "net0", true},
		"down on the host":      {"eth7", "eth7", false},
		"its own name is taken": {"eth8", "eth8", true},
	} {
		t.Run(name, func(t *testing.T) {
			onNewHost(t, func(t *testing.T, container *os.File) {
				addVeth(t, "nx0", "nx1")
				addAddress(t, "nx0", "10.1.2.3/24", 0)
				addAddress(t, "nx0", "10.1.2.4/24", 1000) // not permanent
				addAddress(t, "nx0", "fd00::7/64", 0)
				link, err := netlink.LinkByName("nx0")
				require.NoError(t, err)
				if tc.up {
					require.NoError(t, netlink.LinkSetUp(link))
				}
				if tc.as == "eth8" {
					inside(t, container, func() { addVeth(t, "nx0", "other") })
				}

				d, err := Find("nx0", tc.as)
				require.NoError(t, err)
				require.NoError(t, d.Move(container))
				absent(t, "nx0")
				assert.Equal(t, tc.want, d.Name)
				want := []string{"10.1.2.3/24", "fd00::7/64"}
				inside(t, container, func() {
					up, mtu, mac, list := look(t, tc.want)
					assert.True(t, up, "the runtime sets it up")
					assert.Equal(t, 1400, mtu)
					assert.Equal(t, "02:00:00:00:00:01", mac)
					assert.Equal(t, want, list)
					link, err := netlink.LinkByIndex(d.Index)
					require.NoError(t, err)
					assert.Equal(t, tc.want, link.Attrs().Name)
				})

				require.NoError(t, d.Return(container))
				up, mtu, mac, list := look(t, "nx0")
				assert.Equal(t, tc.up, up)
				assert.Equal(t, 1400, mtu)
				assert.Equal(t, "02:00:00:00:00:01", mac)
				assert.Equal(t, want, list)
				require.NoError(t, d.Return(container), "one that is back is no error")
			})
		})
	}
}

func TestADeviceThatCanNotMoveStays(t *testing.T) {
	onNewHost(t, func(t *testing.T, container *os.File) {
		_, err := Find("nosuch", "")
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		require.ErrorContains(t, err, `linux.netDevices["nosuch"]: find the device on the host: there is none`)

		addVeth(t, "nx0", "nx1")
		addAddress(t, "nx0", "10.1.2.3/24", 0)
		inside(t, container, func() { addVeth(t, "eth0", "eth1") })
		d, err := Find("nx0", "eth0")
		require.NoError(t, err)
		err = d.Move(container)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		require.ErrorContains(t, err, `linux.netDevices["nx0"].name: "eth0": the network namespace has a device of that name`)
		_, _, _, list := look(t, "nx0")
		assert.Equal(t, []string{"10.1.2.3/24"}, list)

		lo, err := Find("lo", "lo9")
		require.NoError(t, err)
		require.ErrorContains(t, lo.Move(container), `linux.netDevices["lo"]: move to the container as "lo9": invalid argument`)
	})
}
