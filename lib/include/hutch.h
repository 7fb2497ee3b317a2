/* libhutch: start a Linux microVM, run commands in it and move files, from C or anything that
 * speaks C.
 *
 * Conventions
 *
 * Handles. hutch_vm, hutch_agent, hutch_shell, hutch_event and hutch_error are opaque or
 * library-allocated. Each has one function that frees it; freeing NULL is allowed and does nothing.
 *
 * Errors. A function that can fail returns HUTCH_OK (0) or a positive hutch_code, and, where it
 * takes a `hutch_error** error` that is not NULL, stores an error there that the caller frees. On
 * success *error is left as it was. Every error has a code, one sentence for a person, and, where
 * there is something to be done, a remedy.
 *
 * Ownership. Strings and bytes given to the library are copied before the call returns. File
 * descriptors given to the library stay the caller's: it duplicates what it keeps. Strings and
 * bytes inside an error or an event belong to it and live as long as it does. Strings are UTF-8 or
 * plain bytes that end with a zero byte; bytes come with their size.
 *
 * Threads. One handle, and the events that came from it, may be used by one thread at a time;
 * different handles are independent. The library starts no thread.
 *
 * Events. Nothing calls back. A handle has one descriptor that polls readable (level-triggered)
 * while it has something to do; the caller then calls its next_event function until that gives no
 * event. No function of this library waits for the guest, but hutch_vm_free, which waits for the
 * end of a process that it has killed.
 *
 * Side effects. The library prints nothing, never exits, installs no signal handler, changes no
 * signal mask for longer than a call, reads no environment variable and keeps no global state. It
 * starts one child process per machine (and one more for its network) or shell, and collects its
 * exit status; a program that collects the status of children it does not know may do so too, then
 * the reason of a crash is lost.
 *
 * Versions. An option structure begins with its own size, set by the caller to sizeof. A structure
 * that is shorter than the library's gets the default, zero, for the rest; a longer one is accepted
 * when the part that the library does not know is zero. An event begins with its size too: a
 * program that reads fields added after the version it requires checks it. Zero is every field's
 * default. Enumerations may gain values; unknown ones are to be ignored.
 *
 * Trust. Everything that comes from the guest (output, exit status, failure messages, the console)
 * is hostile input. The library bounds it: an agent that breaks the protocol is dropped.
 */
#ifndef HUTCH_H
#define HUTCH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(HUTCH_BUILD) && defined(__GNUC__)
#define HUTCH_EXPORT __attribute__((visibility("default")))
#else
#define HUTCH_EXPORT
#endif

/* Raised when a function or a field is added; programs that need one check hutch_api_version(). */
#define HUTCH_API_VERSION 1

typedef struct hutch_error hutch_error;
typedef struct hutch_vm hutch_vm;
typedef struct hutch_agent hutch_agent;
typedef struct hutch_event hutch_event;

/* A process or a file transfer in the guest. Never zero, never used again by the same agent. */
typedef uint64_t hutch_task;

/* HUTCH_API_VERSION of the library in use. */
HUTCH_EXPORT uint32_t hutch_api_version(void);
/* Its release, such as "0.1.0". Never freed. */
HUTCH_EXPORT const char* hutch_version(void);

/* ---- Errors ---------------------------------------------------------------------------------- */

typedef enum hutch_code {
  HUTCH_OK = 0,
  HUTCH_INVALID = 1,    /* an argument is out of its range or contradicts another */
  HUTCH_NOT_FOUND = 2,  /* a file or program is missing */
  HUTCH_PERMISSION = 3, /* a file or device may not be used by this user */
  HUTCH_STATE = 4,      /* not possible now, such as a signal to a process that has ended */
  HUTCH_HOST = 5,       /* a system call of the host failed */
  HUTCH_PROTOCOL = 6,   /* the agent or the VMM broke its protocol */
  HUTCH_TIMEOUT = 7
} hutch_code;

HUTCH_EXPORT int hutch_error_code(const hutch_error* error);
/* The code as a word for programs: "invalid", "not_found", ... Never freed. */
HUTCH_EXPORT const char* hutch_error_name(const hutch_error* error);
HUTCH_EXPORT const char* hutch_error_message(const hutch_error* error);
/* Empty when nothing can be done. */
HUTCH_EXPORT const char* hutch_error_remedy(const hutch_error* error);
/* The host's errno value behind it; 0 when there is none. */
HUTCH_EXPORT int hutch_error_errno(const hutch_error* error);
HUTCH_EXPORT void hutch_error_free(hutch_error* error);

/* ---- Events ---------------------------------------------------------------------------------- */

typedef enum hutch_event_kind {
  HUTCH_EVENT_MARK = 1,        /* mark, monotonic_ns */
  HUTCH_EVENT_AGENT_READY = 2, /* message: the release of the guest kernel */
  HUTCH_EVENT_AGENT_LOST = 3,  /* message, remedy; all tasks are over */
  HUTCH_EVENT_REPORT = 4,      /* counters: the answer to hutch_vm_query */
  HUTCH_EVENT_ENDED = 5,   /* reason, message, remedy, console_tail, counters; a VM's last event */
  HUTCH_EVENT_PAUSED = 6,  /* the answer to hutch_vm_pause */
  HUTCH_EVENT_RESUMED = 7, /* the answer to hutch_vm_resume */
  HUTCH_EVENT_SAVED = 8, /* to hutch_vm_save: message, empty when it is saved; transferred: bytes */
  /* to hutch_vm_record_pages: message, empty when they are written; transferred: their bytes */
  HUTCH_EVENT_PAGES_RECORDED = 9,

  HUTCH_EVENT_STARTED = 16,    /* task, process_id (0 for a file) */
  HUTCH_EVENT_FAILED = 17,     /* task, stage, error_number, message; the task is over */
  HUTCH_EVENT_OUTPUT = 18,     /* task, stream, data, data_size */
  HUTCH_EVENT_OUTPUT_END = 19, /* task, stream */
  HUTCH_EVENT_EXITED = 20,     /* task, signaled, value, out_of_memory */
  HUTCH_EVENT_WRITABLE = 21,   /* task: a write that took less than asked may go on */
  HUTCH_EVENT_DONE = 22,       /* task, transferred; a file transfer is over */

  HUTCH_EVENT_FROZEN = 23, /* message: empty when every process of the machine has stopped running,
                              else why not; then all of them run */
  HUTCH_EVENT_THAWED = 24  /* message: empty when they run again, else why some do not */
} hutch_event_kind;

typedef enum hutch_mark {
  HUTCH_MARK_FIRST_RUN = 1, /* the guest's CPU is about to run for the first time */
  HUTCH_MARK_KERNEL = 2,    /* the guest kernel's first exit to the VMM */
  HUTCH_MARK_INIT = 3,      /* the agent runs as PID 1 */
  HUTCH_MARK_AGENT = 4      /* the agent's connection is open */
} hutch_mark;

typedef enum hutch_reason {
  HUTCH_REASON_POWER_OFF = 1,      /* the guest powered itself off */
  HUTCH_REASON_RESET = 2,          /* the guest asked for a reset */
  HUTCH_REASON_PANIC = 3,          /* the guest kernel panicked */
  HUTCH_REASON_TRIPLE_FAULT = 4,   /* the guest's CPU shut down */
  HUTCH_REASON_INTERNAL_ERROR = 5, /* KVM could not run the guest */
  HUTCH_REASON_HOST_ERROR = 6,     /* a system call failed, the kernel image is bad, ... */
  HUTCH_REASON_STOPPED = 7,        /* hutch_vm_stop */
  HUTCH_REASON_AGENT_TIMEOUT = 8,  /* the agent did not answer in agent_timeout_ms */
  HUTCH_REASON_VMM_FAILED = 9      /* the VMM process died without saying why */
} hutch_reason;

/* The word for a reason: "power_off", "panic", ... Never freed; "unknown" for other numbers. */
HUTCH_EXPORT const char* hutch_reason_name(int reason);

/* What could not be done for a task that failed. */
typedef enum hutch_stage {
  HUTCH_STAGE_REQUEST = 1,
  HUTCH_STAGE_USER = 2,      /* the user does not exist or may not be used */
  HUTCH_STAGE_DIRECTORY = 3, /* the working directory */
  HUTCH_STAGE_EXECUTE = 4,   /* the program; error_number says why, ENOENT when there is none */
  HUTCH_STAGE_FILE = 5
} hutch_stage;

typedef struct hutch_counter {
  const char* name; /* such as "user_exits_until_init/mmio/0xd0000070" */
  uint64_t value;
} hutch_counter;

/* Fields that the event's kind does not name are zero; strings are never NULL. */
struct hutch_event {
  size_t size;
  int kind;
  hutch_task task;

  int mark;
  uint64_t monotonic_ns; /* CLOCK_MONOTONIC of the host */

  int stream; /* 1: standard output, all output of a terminal, a file's content; 2: standard error
               */
  const void* data;
  size_t data_size; /* bytes, never 0 in an OUTPUT */

  uint32_t process_id; /* in the guest */
  int signaled;        /* value is a signal's number, else an exit status */
  uint32_t value;
  int out_of_memory; /* the guest kernel killed a process of its group for memory */

  int stage;
  uint32_t error_number; /* Linux errno; 0 when there is none */
  uint64_t transferred;  /* bytes */

  int reason;
  const char* message; /* one sentence for a person, control characters removed */
  const char* remedy;
  const char* console_tail; /* the last lines of the serial console, control characters removed */
  const hutch_counter* counters;
  size_t counter_count;
};

/* Frees an event. For an OUTPUT this says that its bytes have been passed on: only then may the
 * guest send as many more. A program that holds events back thus slows the guest's process down. */
HUTCH_EXPORT void hutch_event_free(hutch_event* event);

/* ---- Machines -------------------------------------------------------------------------------- */

typedef struct hutch_disk {
  size_t size;
  const char* path; /* used when fd is 0 or less */
  int fd;
  int read_only;
  /* The file is a base that many machines may share and nobody changes: what the guest writes goes
   * to a layer of its own, which is gone with the machine, or frozen when it is saved. */
  int layered;
  const char* id; /* at most 20 bytes, the serial number that the guest sees; may be NULL */
  /* Frozen layers between the base and the guest's own, from below, open for reading: those of
   * hutch_vm_disk_layers. Nobody may change them. */
  const int* layers;
  size_t layer_count; /* at most 64, of all disks together */
} hutch_disk;

/* A network device for the guest, and the hosts that it may reach: docs/egress.md. */
typedef struct hutch_network {
  size_t size;
  int allow_all;            /* every host of the open Internet; `hosts` is empty then */
  const char* const* hosts; /* "host", "*.domain", "1.2.3.4", "[2001:db8::1]", each with or without
                               ":port"; none: nothing is reached */
  size_t host_count;
  /* Blocks of private addresses ("10.1.0.0/16") that may be reached where `hosts` allow it; without
   * them only the open Internet is, whatever a name resolves to. */
  const char* const* opened_blocks;
  size_t opened_block_count;
  const char* const* dns_servers; /* addresses, with or without ":port"; none: the host's */
  size_t dns_server_count;
  /* Gets what was decided, a line of JSON each, chained by hashes; open for reading and appending;
   * 0 or less: none. */
  int decision_log_fd;
  const char* broker_path; /* the program hutch-broker; NULL: beside hutch-vmm */
  /* Bytes of the log; 0: 64 MiB. What cannot be recorded is not done: at the limit the guest's
   * network ends. */
  uint64_t decision_log_limit;
  /* Over IPv6, too: the guest has an address of it, and names may lead to such addresses. */
  int ipv6;
} hutch_network;

/* A saved machine: two files that hutch_vm_save wrote, and the key that it was given. Whoever uses
 * them must not change them: many machines may share the memory. */
typedef struct hutch_saved_machine {
  size_t size;
  const char* memory_path; /* used when memory_fd is 0 or less */
  const char* state_path;  /* used when state_fd is 0 or less */
  int memory_fd;
  int state_fd;
  uint8_t key[16];
  /* The process with agent_program set that ran when it was saved goes on as task
   * HUTCH_ADOPTED_TASK, with its input and outputs open; all other tasks are over. Without this
   * that one is, too. */
  int adopt_service;
  /* "NAME=value", ends with NULL: given to what that process starts from now on; NULL: none. */
  const char* const* service_environment;
  /* What hutch_vm_record_pages wrote of another machine that went on with the same memory: the
   * guest has copies of these pages before it runs. 0 or less: each when it writes to it. */
  int pages_fd;
} hutch_saved_machine;

#define HUTCH_ADOPTED_TASK 1

typedef enum hutch_description {
  HUTCH_DESCRIBE_AUTO = 0, /* a device tree for a kernel that takes one, else an MP table */
  HUTCH_DESCRIBE_DEVICE_TREE = 1,
  HUTCH_DESCRIBE_MP_TABLE = 2
} hutch_description;

/* A process with an empty VM in it, made ahead: a machine that takes it does not wait for them. It
 * knows nothing of the machine, and no guest has been in it. */
typedef struct hutch_shell hutch_shell;

typedef struct hutch_shell_options {
  size_t size;
  int log_fd; /* this and the others: as in hutch_vm_options */
  const char* vmm_path;
  const char* kvm_path;
  int end_with_thread;
} hutch_shell_options;

/* Returns while the process makes itself ready. */
HUTCH_EXPORT int hutch_shell_start(const hutch_shell_options* options, hutch_shell** shell,
                                   hutch_error** error);
/* Of one that no machine took: kills its process. */
HUTCH_EXPORT void hutch_shell_free(hutch_shell* shell);

typedef struct hutch_vm_options {
  size_t size;
  uint32_t cpus;                  /* 1 to 16; 0: 1 */
  uint64_t memory;                /* bytes, whole MiB, 128 MiB to 64 GiB; 0: 256 MiB */
  const char* kernel;             /* ELF vmlinux or bzImage; required without `restore` */
  const char* initramfs;          /* may be NULL */
  const char* command_line;       /* of the guest kernel; NULL: empty */
  int description;                /* hutch_description */
  int pit;                        /* emulate the 8254 timer */
  const hutch_disk* const* disks; /* /dev/vda first */
  size_t disk_count;              /* at most 8 */
  /* Folder for the guests' own layers; NULL: /var/tmp. What is made there has no name. */
  const char* scratch_directory;
  /* Do not expect our agent in the guest: no connection to it is offered. */
  int no_agent;
  uint32_t agent_timeout_ms; /* from hutch_vm_start to its first answer; 0: 60 s */
  const char* host_name;     /* of the guest; NULL: it keeps its own */
  int console_output_fd;     /* gets what the guest writes to its serial console; 0 or less: none */
  int console_input_fd;      /* feeds the serial console; 0 or less: none */
  int log_fd;                /* the VMM's own log lines; 0 or less: /dev/null */
  const char* vmm_path;      /* the program hutch-vmm; NULL: beside the running executable */
  const char* kvm_path;      /* NULL: /dev/kvm */
  /* Kill the machine when the calling thread ends, even if the process goes on. When the process
   * ends the machine always does. */
  int end_with_thread;
  const hutch_network* network; /* NULL: the guest has no network device */
  /* Goes on with this instead of a boot: kernel, initramfs and command_line are not used. CPUs,
   * memory, network and disks are those it was saved with; writable disks have what they had then.
   * The guest gets new random numbers, an identity and a clock of its own before its first task,
   * and before what hutch_agent_freeze had stopped runs again; what was not stopped runs on at
   * once. */
  const hutch_saved_machine* restore;
  /* A virtio-rng device. Kernels get a seed from the host at the start without it, and an agent
   * more before its first task. */
  int entropy_device;
  /* Taken by hutch_vm_start, whatever it returns; log_fd, vmm_path, kvm_path and end_with_thread
   * are those that it was started with. When its process has ended meanwhile, another one is
   * started with those that are given here. NULL: a process is started. */
  hutch_shell* shell;
} hutch_vm_options;

/* Starts a machine: returns as soon as its VMM has been given all that it needs. */
HUTCH_EXPORT int hutch_vm_start(const hutch_vm_options* options, hutch_vm** vm,
                                hutch_error** error);
/* Whether it has been made in `shell`: 0 or 1. */
HUTCH_EXPORT int hutch_vm_was_prepared(const hutch_vm* vm);
/* A descriptor that polls readable while hutch_vm_next_event has something to do. The VM's own. */
HUTCH_EXPORT int hutch_vm_event_fd(const hutch_vm* vm);
/* Does what is due and stores the next event of the machine or its agent, or NULL when there is
 * none now. After ENDED there is none any more. */
HUTCH_EXPORT int hutch_vm_next_event(hutch_vm* vm, hutch_event** event, hutch_error** error);
/* The agent in the machine, or NULL when no_agent was set. The VM's own; its tasks may be started
 * at once and run as soon as it is there. */
HUTCH_EXPORT hutch_agent* hutch_vm_agent(hutch_vm* vm);
/* Asks the VMM for its counters: a REPORT follows. */
HUTCH_EXPORT int hutch_vm_query(hutch_vm* vm, hutch_error** error);
/* Which hosts the guest may reach from now on, as in hutch_network; connections that are not
 * allowed any more are reset. HUTCH_INVALID names a host that is none. */
HUTCH_EXPORT int hutch_vm_set_policy(hutch_vm* vm, int allow_all, const char* const* hosts,
                                     size_t host_count, hutch_error** error);
/* Stops the guest's processors and devices where they are: PAUSED follows. Its clock and its
 * connections go on. hutch_vm_resume lets it run again: RESUMED follows. */
HUTCH_EXPORT int hutch_vm_pause(hutch_vm* vm, hutch_error** error);
HUTCH_EXPORT int hutch_vm_resume(hutch_vm* vm, hutch_error** error);
/* Saves a paused machine to two empty files: SAVED follows. `key`, 16 bytes, ties the state to who
 * knows it. The layers that the guest wrote on layered disks are frozen as of then, and it goes on
 * with empty ones; the caller keeps hutch_vm_disk_layers. Nothing is copied, but where a disk has
 * 32 layers: most of them become one. What other disks hold is the caller's to keep. */
HUTCH_EXPORT int hutch_vm_save(hutch_vm* vm, int memory_fd, int state_fd, const uint8_t* key,
                               hutch_error** error);
/* Writes to an empty file which pages a restored machine has written to by now, for others that go
 * on with the same memory: PAGES_RECORDED follows, with an error when they are over 8 MiB. */
HUTCH_EXPORT int hutch_vm_record_pages(hutch_vm* vm, int fd, hutch_error** error);
/* The frozen layers of a layered disk, from below: after SAVED, those that a machine that goes on
 * from there needs. Read-only descriptors of files that may have no name; the VM's own, valid until
 * its next event is taken. A caller that wants to have them after a power cut flushes and names
 * their files. */
HUTCH_EXPORT int hutch_vm_disk_layers(const hutch_vm* vm, size_t disk, const int** fds,
                                      size_t* count, hutch_error** error);
/* Ends the machine as a power cut does; ENDED follows, within 3 s also from a VMM that hangs. For
 * an orderly end use hutch_agent_shutdown. */
HUTCH_EXPORT int hutch_vm_stop(hutch_vm* vm, hutch_error** error);
/* The process id of the VMM. */
HUTCH_EXPORT int32_t hutch_vm_process_id(const hutch_vm* vm);
/* Kills the machine if it still runs and frees the handle and its agent. Events already taken stay
 * valid. */
HUTCH_EXPORT void hutch_vm_free(hutch_vm* vm);

/* ---- Agents ---------------------------------------------------------------------------------- */

typedef struct hutch_agent_options {
  size_t size;
  int fd;                /* a connected stream socket to the agent; required */
  const char* token;     /* shared secret where the transport does not authenticate; NULL: none */
  uint32_t timeout_ms;   /* to its first answer; 0: 60 s; then AGENT_LOST */
  const char* host_name; /* NULL: the machine keeps its own */
  int set_clock;         /* set its clock from this host's */
} hutch_agent_options;

/* An agent that runs elsewhere than in a machine of this library. */
HUTCH_EXPORT int hutch_agent_connect(const hutch_agent_options* options, hutch_agent** agent,
                                     hutch_error** error);
/* As for a VM; only for agents made by hutch_agent_connect. After AGENT_LOST there is no event any
 * more. */
HUTCH_EXPORT int hutch_agent_event_fd(const hutch_agent* agent);
HUTCH_EXPORT int hutch_agent_next_event(hutch_agent* agent, hutch_event** event,
                                        hutch_error** error);
/* Ends the connection, and with it what was started over it. Only for hutch_agent_connect's. */
HUTCH_EXPORT void hutch_agent_free(hutch_agent* agent);
/* Stops all processes of the guest that the agent has started, for a machine that is to be saved
 * with them: FROZEN follows. hutch_agent_thaw lets them run again: THAWED follows. */
HUTCH_EXPORT int hutch_agent_freeze(hutch_agent* agent, hutch_error** error);
HUTCH_EXPORT int hutch_agent_thaw(hutch_agent* agent, hutch_error** error);
/* Lets the guest flush its disks and power itself off (or, with `reboot`, reset). */
HUTCH_EXPORT int hutch_agent_shutdown(hutch_agent* agent, int reboot, hutch_error** error);

/* ---- Processes and files --------------------------------------------------------------------- */

typedef struct hutch_process_options {
  size_t size;
  const char* const* arguments;   /* ends with NULL; the program is looked up in the guest's PATH */
  const char* const* environment; /* "NAME=value" on top of the user's default; NULL: none */
  const char* working_directory;  /* NULL: the user's home */
  const char* user;               /* name or number; NULL: root */
  int terminal;                   /* give it a terminal; all output is stream 1 */
  int open_input;                 /* 0: standard input is /dev/null */
  uint16_t rows, columns;         /* of the terminal */
  int agent_program;              /* run the agent's own program; arguments[0] is its mode: "rpc" */
} hutch_process_options;

/* Starts a process: STARTED, then OUTPUT, OUTPUT_END and EXITED follow, or FAILED alone. EXITED
 * does not wait for the process's children; output that they still write may follow it. */
HUTCH_EXPORT int hutch_process_start(hutch_agent* agent, const hutch_process_options* options,
                                     hutch_task* task, hutch_error** error);
/* Sends a signal (Linux x86-64 number) to the process group. */
HUTCH_EXPORT int hutch_process_signal(hutch_agent* agent, hutch_task task, int number,
                                      hutch_error** error);
HUTCH_EXPORT int hutch_process_resize(hutch_agent* agent, hutch_task task, uint16_t rows,
                                      uint16_t columns, hutch_error** error);

typedef struct hutch_file_options {
  size_t size;
  const char* path;
  const char* user; /* as whom it is opened; NULL: root */
  /* reading */
  uint64_t offset;
  uint64_t limit; /* bytes at most; 0: to the end */
  /* writing */
  uint32_t mode; /* of a new file; 0: 0644 */
  int append;
  int create_new; /* fail when it exists */
} hutch_file_options;

/* Reads a file: OUTPUT on stream 1 follows, then DONE; or FAILED. */
HUTCH_EXPORT int hutch_file_read(hutch_agent* agent, const hutch_file_options* options,
                                 hutch_task* task, hutch_error** error);
/* Writes a file with what hutch_task_write sends until hutch_task_close_input: STARTED, then DONE;
 * or FAILED. */
HUTCH_EXPORT int hutch_file_write(hutch_agent* agent, const hutch_file_options* options,
                                  hutch_task* task, hutch_error** error);

/* Sends bytes to standard input, or of the file being written, and stores how many were taken:
 * less than `size`, down to 0, when the guest has not made room yet; WRITABLE follows then. */
HUTCH_EXPORT int hutch_task_write(hutch_agent* agent, hutch_task task, const void* bytes,
                                  size_t size, size_t* taken, hutch_error** error);
/* The end of standard input, or of the file being written. */
HUTCH_EXPORT int hutch_task_close_input(hutch_agent* agent, hutch_task task, hutch_error** error);
/* Forgets a task: kills its process group if it still runs; no event of it follows. A task whose
 * last event (FAILED, DONE, or EXITED and both OUTPUT_END) has been taken need not be closed;
 * closing it then does nothing. */
HUTCH_EXPORT void hutch_task_close(hutch_agent* agent, hutch_task task);

#ifdef __cplusplus
}
#endif

#endif
