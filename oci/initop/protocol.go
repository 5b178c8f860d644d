package initop

// The numbers of cmd/nexcage-init/protocol.h; a test compares the two.
const (
	Magic      = 0x3143584e
	Version    = 1
	MaxMessage = 8 << 20 // bytes of operations in a message
	MaxFDs     = 250     // descriptors in a message
	MaxTarget  = 9       // highest descriptor that Dup2 can make
	MaxFilter  = 4096    // instructions of a seccomp program
	MaxGroups  = 65536   // supplementary groups
	MaxNodes   = 1024    // memory nodes of a policy
	MaxCPUs    = 65536   // CPUs of an affinity

	HeaderSize = 16 // magic, version (16 bits), descriptors (16 bits), operations, length
	ReplySize  = 24 // magic, kind, index, code, value, extra
)

// Code is the number of an operation in a message.
type Code uint32

// The operations.
const (
	CodeResetSignals Code = iota + 1
	CodeDup2
	CodeSetSID
	CodeSetCTTY
	CodeUmask
	CodeRLimit
	CodeSetGroups
	CodeSetGID
	CodeSetUID
	CodeKeepCaps
	CodeDropBounding
	CodeSetCaps
	CodeSetAmbient
	CodeNoNewPrivs
	CodeChdir
	CodePersonality
	CodeSeccomp
	CodeCloseFrom
	CodeLookup
	CodeExec
	CodeJoinCgroup
	CodeSetNS
	CodeFork
	CodeWriteFD
	CodeSessionKeyring
	CodeUnshare
	CodeFSOpen
	CodeWriteAt
	CodeMempolicy
	CodeAffinity
	CodeTryChdir
	CodeRetryChdir
)

// Kinds of replies.
const (
	ReplyOK        = 0 // every operation of the message was done
	ReplyFailed    = 1 // an operation failed, value is the errno
	ReplyForked    = 2 // value is the pid, the pidfd comes with it
	ReplyMalformed = 3 // nothing was done
	ReplyOpened    = 4 // a descriptor comes with it; more replies follow
	ReplyListener  = 5 // value is the number of the listener's descriptor in the helper
)

// Why a Lookup failed: what a reply has as extra.
const (
	LookupUnusable = 0 // found, but a directory or not executable
	LookupStat     = 1 // stat(2) of a name with a slash failed
	LookupNotFound = 2 // nothing in $PATH
	LookupDot      = 3 // found through a relative element of $PATH
)

// Exit codes of the helper.
const (
	ExitFailed    = 120 // an operation failed
	ExitUsage     = 121 // bad arguments
	ExitConnect   = 122 // nobody listens
	ExitEOF       = 123 // the connection was closed
	ExitMalformed = 124 // a message that is not valid
)
