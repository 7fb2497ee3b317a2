#include "bench/child.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "bench/interrupt.h"
#include "bench/subject.h"

namespace hutch::bench {
namespace {

std::pair<Fd, Fd> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0)
    throw BenchFailure(fmt::format("making a pipe: {}", std::strerror(errno)));
  return {Fd(ends[0]), Fd(ends[1])};
}

size_t read_some(const Fd& fd, char* bytes, size_t size) {
  for (;;) {
    throw_if_interrupted();
    ssize_t got = ::read(fd.get(), bytes, size);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) throw BenchFailure(fmt::format("reading a pipe: {}", std::strerror(errno)));
  }
}

}  // namespace

Child start_child(const std::vector<std::string>& words, bool with_input) {
  Child child;
  auto [output, writes] = make_pipe();
  Fd reads;
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  if (with_input) {
    std::tie(reads, child.input) = make_pipe();
    ::posix_spawn_file_actions_adddup2(&actions, reads.get(), STDIN_FILENO);
  } else {
    ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  }
  ::posix_spawn_file_actions_adddup2(&actions, writes.get(), STDOUT_FILENO);
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  pid_t process_id = 0;
  int error = ::posix_spawnp(&process_id, pointers[0], &actions, nullptr, pointers.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    throw BenchFailure(fmt::format("running {}: {}", words.front(), std::strerror(error)));
  child.process_id = process_id;
  child.output = std::move(output);
  return child;
}

int wait_for(const Child& child) {
  int status = 0;
  while (::waitpid(child.process_id, &status, 0) < 0)
    if (errno != EINTR) throw BenchFailure(fmt::format("waiting: {}", std::strerror(errno)));
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::string read_to_end(const Fd& fd) {
  std::string result;
  std::array<char, 65536> bytes;
  while (size_t got = read_some(fd, bytes.data(), bytes.size())) result.append(bytes.data(), got);
  return result;
}

std::string read_line(const Fd& fd) {
  std::string line;
  for (char byte = 0; byte != '\n';) {
    if (read_some(fd, &byte, 1) == 0) throw BenchFailure("a program ended before it answered");
    if (byte != '\n') line += byte;
  }
  return line;
}

}  // namespace hutch::bench
