/* The only program in the machine of kernel-config/measure: prints the kernel's log and restarts,
   which ends QEMU. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/klog.h>
#include <sys/reboot.h>

int main(void) {
  enum { kReadAll = 3, kCapacity = 1 << 21 };
  char* log = malloc(kCapacity);
  int size = log ? klogctl(kReadAll, log, kCapacity) : -1;
  if (size < 0 || fwrite(log, 1, (size_t)size, stdout) != (size_t)size || fflush(stdout) != 0)
    perror("reading the kernel's log");
  reboot(RB_AUTOBOOT);
  return 1;
}
