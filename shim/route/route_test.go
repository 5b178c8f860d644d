package route

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cageforge/containerd-shim-nexcage/shim/config"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type annotations = map[string]string

var withLXC = Env{HasLXC: func() bool { return true }}

func TestTheFirstRuleThatMatchesDecides(t *testing.T) {
	c := rules(
		config.Rule{Namespace: "^moby$", Backend: "lxc"},
		config.Rule{Namespace: "^default$", ID: "build", Backend: "crun"},
		config.Rule{Image: "alpine", Backend: "crun"},
		config.Rule{NerdctlName: "^db[0-9]$", Backend: "crun"},
		config.Rule{CRIContainerName: "^proxy$", Backend: "crun"},
		config.Rule{CRISandboxName: "^dns-", CRISandboxNamespace: "^kube-system$", Backend: "crun"},
		config.Rule{ID: "build", Backend: "lxc"},
	)
	for name, tt := range map[string]struct {
		ct              Container
		backend, reason string
	}{
		"none":                     {Container{Namespace: "default", ID: "x"}, "lxc", "routing.default_backend"},
		"namespace":                {Container{Namespace: "moby", ID: "x"}, "lxc", "routing.rules[0]"},
		"an earlier rule wins":     {Container{Namespace: "moby", ID: "build"}, "lxc", "routing.rules[0]"},
		"both conditions":          {Container{Namespace: "default", ID: "x"}, "lxc", "routing.default_backend"},
		"anchors hold":             {Container{Namespace: "default2", ID: "build"}, "lxc", "routing.rules[6]"},
		"anywhere without anchors": {Container{Namespace: "default", ID: "my-build-1"}, "crun", "routing.rules[1]"},
		"image":                    {with("io.kubernetes.cri.image-name", "docker.io/library/alpine:3"), "crun", "routing.rules[2]"},
		"image of another name":    {with("io.kubernetes.cri.image-name", "docker.io/library/nginx"), "lxc", "routing.default_backend"},
		"nerdctl name":             {with("nerdctl/name", "db1"), "crun", "routing.rules[3]"},
		"nerdctl name, no match":   {with("nerdctl/name", "db10"), "lxc", "routing.default_backend"},
		"CRI container name":       {with("io.kubernetes.cri.container-name", "proxy"), "crun", "routing.rules[4]"},
		"CRI sandbox": {with("io.kubernetes.cri.sandbox-name", "dns-1", "io.kubernetes.cri.sandbox-namespace", "kube-system"),
			"crun", "routing.rules[5]"},
		"CRI sandbox elsewhere": {with("io.kubernetes.cri.sandbox-name", "dns-1", "io.kubernetes.cri.sandbox-namespace", "apps"),
			"lxc", "routing.default_backend"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Decide(c, tt.ct, withLXC)
			require.NoError(t, err)
			assert.Equal(t, Decision{Backend: tt.backend, Reason: tt.reason}, d)
		})
	}
}

func TestAConditionOnAnUnknownValueDoesNotMatch(t *testing.T) {
	c := rules(config.Rule{Image: ".*", Backend: "crun"}, config.Rule{NerdctlName: "^$", Backend: "crun"})
	d, err := Decide(c, Container{Namespace: "default", ID: "x"}, withLXC)
	require.NoError(t, err)
	assert.Equal(t, "lxc", d.Backend)
}

func TestARuleWithoutConditionsMatchesNothing(t *testing.T) {
	d, err := Decide(rules(config.Rule{Backend: "crun"}), Container{ID: "x"}, withLXC)
	require.NoError(t, err)
	assert.Equal(t, "lxc", d.Backend)
}

func TestTheDefaultBackendIsThatOfTheConfiguration(t *testing.T) {
	c := config.Default()
	c.Routing.DefaultBackend = "crun"
	d, err := Decide(c, Container{ID: "x"}, Env{HasLXC: func() bool { panic("not asked") }})
	require.NoError(t, err)
	assert.Equal(t, Decision{Backend: "crun", Reason: "routing.default_backend"}, d)
}

func TestAnAllowedAnnotationWinsOverRules(t *testing.T) {
	c := rules(config.Rule{ID: ".", Backend: "crun"})
	c.LXC.AllowedAnnotations = []string{"io.nexcage.backend"}
	d, err := Decide(c, with("io.nexcage.backend", "lxc"), withLXC)
	require.NoError(t, err)
	assert.Equal(t, Decision{Backend: "lxc", Reason: "annotation io.nexcage.backend"}, d)
}

func TestAnnotationsAreAPrivilege(t *testing.T) {
	backend := []string{"io.nexcage.backend"}
	for name, tt := range map[string]struct {
		allowed     []string
		annotations annotations
		is          error
		want        string
	}{
		"not allowed": {nil, annotations{"io.nexcage.backend": "crun"}, errdefs.ErrPermissionDenied,
			"annotation io.nexcage.backend is not allowed: lxc.allowed_annotations"},
		"unknown": {backend, annotations{"io.nexcage.backends": "crun"}, errdefs.ErrInvalidArgument,
			"annotation io.nexcage.backends is not known, only io.nexcage.backend"},
		"unknown, though listed": {[]string{"io.nexcage.vm"}, annotations{"io.nexcage.vm": "100"}, errdefs.ErrInvalidArgument,
			"annotation io.nexcage.vm is not known"},
		"unknown beside a good one": {backend, annotations{"io.nexcage.backend": "crun", "io.nexcage.x": ""}, errdefs.ErrInvalidArgument,
			"annotation io.nexcage.x is not known"},
		"unknown backend": {backend, annotations{"io.nexcage.backend": "runc"}, errdefs.ErrInvalidArgument,
			`io.nexcage.backend: "runc" is not one of ["lxc" "crun"]`},
		"empty backend": {backend, annotations{"io.nexcage.backend": ""}, errdefs.ErrInvalidArgument,
			`io.nexcage.backend: "" is not one of`},
		"not allowed in a pod's container": {nil, annotations{"io.nexcage.backend": "crun", criType: "container", criSandboxID: "s"},
			errdefs.ErrPermissionDenied, "io.nexcage.backend is not allowed"},
		"not allowed on a sandbox": {nil, annotations{"io.nexcage.backend": "crun", criType: "sandbox"},
			errdefs.ErrPermissionDenied, "io.nexcage.backend is not allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config.Default()
			c.LXC.AllowedAnnotations = tt.allowed
			d, err := Decide(c, Container{ID: "web", Annotations: tt.annotations}, withLXC)
			require.ErrorIs(t, err, tt.is)
			assert.ErrorContains(t, err, tt.want)
			assert.ErrorContains(t, err, "container web")
			assert.Zero(t, d)
		})
	}
}

func TestAnnotationsOfOthersAreNoneOfOurs(t *testing.T) {
	_, err := Decide(config.Default(), with("io.nexcagex", "1", "io.nexcage", "1", "com.io.nexcage.backend", "1"), withLXC)
	require.NoError(t, err)
}

func TestABadConfigurationIsAnError(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*config.Config)
		want   string
	}{
		"default":  {func(c *config.Config) { c.Routing.DefaultBackend = "kvm" }, `routing.default_backend: "kvm" is not one of ["lxc" "crun"]`},
		"rule":     {func(c *config.Config) { c.Routing.Rules = []config.Rule{{ID: "x", Backend: "kvm"}} }, `routing.rules[0].backend: "kvm" is not one of`},
		"pattern":  {func(c *config.Config) { c.Routing.Rules = []config.Rule{{ID: "(", Backend: "lxc"}} }, "routing.rules[0].id: error parsing regexp"},
		"fallback": {func(c *config.Config) { c.Routing.Fallback = "kvm" }, `routing.fallback: "kvm" is not one of`},
	} {
		t.Run(name, func(t *testing.T) {
			c := config.Default()
			tt.change(c)
			_, err := Decide(c, Container{ID: "x"}, Env{HasLXC: func() bool { return false }})
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

func TestWithoutLXCTheErrorSaysWhatToDo(t *testing.T) {
	noLXC := Env{HasLXC: func() bool { return false }}
	byRule := rules(config.Rule{ID: ".", Backend: "lxc"})
	byRule.Routing.DefaultBackend = "crun"
	for name, tt := range map[string]struct {
		c    *config.Config
		ct   Container
		want string
	}{
		"default": {config.Default(), Container{ID: "x"}, "routing.default_backend asks for lxc"},
		"rule":    {byRule, Container{ID: "x"}, "routing.rules[0] asks for lxc"},
		"sandbox": {config.Default(), with(criType, "sandbox"), "routing.default_backend asks for lxc"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decide(tt.c, tt.ct, noLXC)
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
			for _, want := range []string{tt.want, `"lxc-start" is not found`, "apt install lxc", "lxc.native.lxc_start", "routing.fallback"} {
				assert.ErrorContains(t, err, want)
			}

			tt.c.Routing.Fallback = "crun"
			d, err := Decide(tt.c, tt.ct, noLXC)
			require.NoError(t, err)
			assert.Equal(t, "crun", d.Backend)
			assert.Contains(t, d.Reason, "routing.fallback, because "+tt.want+`, but "lxc-start" is not found`)
		})
	}
}

func TestLXCIsInstalledWhereLXCStartIs(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	c := config.Default()
	assert.False(t, LXCInstalled(c))
	_, err := Decide(c, Container{ID: "x"}, Env{})
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "lxc-start"), nil, 0o755))
	assert.True(t, LXCInstalled(c))
	d, err := Decide(c, Container{ID: "x"}, Env{})
	require.NoError(t, err)
	assert.Equal(t, "lxc", d.Backend)

	c.LXC.Native.LXCStart = filepath.Join(dir, "none")
	assert.False(t, LXCInstalled(c))
}

func TestASandboxIsCrunsAndRecordsThePodsBackend(t *testing.T) {
	c := rules(config.Rule{CRISandboxNamespace: "^kube-system$", Backend: "crun"}, config.Rule{Image: ".", Backend: "crun"})
	c.LXC.AllowedAnnotations = []string{"io.nexcage.backend"}
	for name, tt := range map[string]struct {
		ct          Container
		pod, reason string
	}{
		"default":    {with(criType, "sandbox", criSandboxNamespace, "apps"), "lxc", "routing.default_backend"},
		"rule":       {with(criType, "sandbox", criSandboxNamespace, "kube-system"), "crun", "routing.rules[0]"},
		"annotation": {with(criType, "sandbox", "io.nexcage.backend", "crun"), "crun", "annotation io.nexcage.backend"},
		"pause image": {with(criType, "sandbox", "io.kubernetes.cri.podsandbox.image-name", "registry.k8s.io/pause:3.10"),
			"lxc", "routing.default_backend"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Decide(c, tt.ct, withLXC)
			require.NoError(t, err)
			assert.Equal(t, Decision{
				Backend:    "crun",
				Reason:     "sandbox of a pod; its containers get " + tt.pod + ": " + tt.reason,
				PodBackend: tt.pod,
			}, d)
		})
	}
}

func TestAPodsContainerFollowsItsSandbox(t *testing.T) {
	const follows = "container of the pod whose sandbox is s1"
	for name, tt := range map[string]struct {
		rule             config.Rule
		recorded, reason string
	}{
		"another rule":            {config.Rule{ID: "^nobody$", Backend: "crun"}, "lxc", follows},
		"a rule that agrees":      {config.Rule{CRIContainerName: "^web$", Backend: "crun"}, "crun", follows},
		"a rule on its own name":  {config.Rule{CRIContainerName: "^web$", Backend: "crun"}, "lxc", follows + "; not crun by routing.rules[0], as a pod is routed as a whole"},
		"a rule on its own image": {config.Rule{Image: "nginx", Backend: "crun"}, "lxc", follows + "; not crun by routing.rules[0], as a pod is routed as a whole"},
	} {
		t.Run(name, func(t *testing.T) {
			ct := with(criType, "container", criSandboxID, "s1", criContainerName, "web", criImageName, "docker.io/library/nginx:1")
			d, err := Decide(rules(tt.rule), ct, sandbox("s1", tt.recorded))
			require.NoError(t, err)
			assert.Equal(t, Decision{Backend: tt.recorded, Reason: tt.reason}, d)
		})
	}
}

func TestAPodsContainerMayRepeatItsPodsAnnotation(t *testing.T) {
	for name, tt := range map[string]struct {
		annotation, recorded, fallback string
		want                           string // of the error
	}{
		"same":                     {"lxc", "lxc", "", ""},
		"crun was the fallback":    {"lxc", "crun", "crun", ""},
		"crun, but no fallback":    {"lxc", "crun", "", `"lxc" contradicts the pod of sandbox s1, which is crun's`},
		"lxc is never a fallback":  {"crun", "lxc", "crun", `"crun" contradicts the pod of sandbox s1, which is lxc's`},
		"unknown, with a fallback": {"kvm", "crun", "crun", `"kvm" is not one of ["lxc" "crun"]`},
	} {
		t.Run(name, func(t *testing.T) {
			c := config.Default()
			c.LXC.AllowedAnnotations = []string{"io.nexcage.backend"}
			c.Routing.Fallback = tt.fallback
			ct := with(criType, "container", criSandboxID, "s1", "io.nexcage.backend", tt.annotation)
			d, err := Decide(c, ct, sandbox("s1", tt.recorded))
			if tt.want != "" {
				require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
				assert.ErrorContains(t, err, tt.want)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.recorded, d.Backend)
		})
	}
}

func TestAPodsContainerIsRefusedWithoutARecord(t *testing.T) {
	broken := errors.New("disk on fire")
	for name, tt := range map[string]struct {
		ct   Container
		env  Env
		is   error
		want string
	}{
		"no sandbox id": {with(criType, "container"), sandbox("s1", "lxc"), errdefs.ErrInvalidArgument, criSandboxID},
		"not recorded":  {with(criType, "container", criSandboxID, "s2"), sandbox("s1", "lxc"), errdefs.ErrFailedPrecondition, "sandbox s2 has no record"},
		"not a pod's":   {with(criType, "container", criSandboxID, "s1"), sandbox("s1", ""), errdefs.ErrInvalidArgument, `record of sandbox s1: "" is not one of`},
		"unreadable": {with(criType, "container", criSandboxID, "s1"),
			Env{Sandbox: func(string) (string, bool, error) { return "", false, broken }}, broken, "record of sandbox s1: disk on fire"},
		"unknown role": {with(criType, "pod"), withLXC, errdefs.ErrInvalidArgument, criType + `: "pod" is not one of ["sandbox" "container"]`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decide(config.Default(), tt.ct, tt.env)
			require.ErrorIs(t, err, tt.is)
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

func rules(r ...config.Rule) *config.Config {
	c := config.Default()
	c.Routing.Rules = r
	return c
}

// with is a container with annotations, given as pairs.
func with(pairs ...string) Container {
	ct := Container{Namespace: "k8s.io", ID: "c1", Annotations: annotations{}}
	for i := 0; i < len(pairs); i += 2 {
		ct.Annotations[pairs[i]] = pairs[i+1]
	}
	return ct
}

// sandbox is a host with the record of one sandbox.
func sandbox(id, backend string) Env {
	return Env{Sandbox: func(asked string) (string, bool, error) { return backend, asked == id, nil }}
}
