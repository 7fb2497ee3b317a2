#include "guest-agent/rpc/walk.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>

#include "guest-agent/rpc/files.h"
#include "guest-agent/rpc/parameters.h"
#include "guest-agent/rpc/patterns.h"

namespace hutch::agent::rpc {
namespace {

// Deeper than any path that is not made of links can be.
constexpr size_t kMaxDepth = PATH_MAX;

struct WalkOptions {
  double max_depth = INFINITY;
  bool files = true, folders = true, symlinks = true, follow = false, canonicalize = true;
  std::vector<std::string> endings;
  std::optional<std::vector<std::regex>> match;
  std::vector<std::regex> skip;
};

// Whether a path is to be shown; `by_name`: by how it is called as well as by what is skipped.
bool is_wanted(const WalkOptions& options, const std::string& path, bool by_name) {
  if (by_name) {
    if (!options.endings.empty() &&
        std::none_of(options.endings.begin(), options.endings.end(),
                     [&](const std::string& ending) { return path.ends_with(ending); }))
      return false;
    if (options.match && !matches_any(*options.match, path)) return false;
  }
  return !matches_any(options.skip, path);
}

std::string join(const std::string& folder, const std::string& name) {
  if (folder.empty() || folder == ".") return name;
  return folder.back() == '/' ? folder + name : folder + "/" + name;
}

// Without ".", ".." behind a name, doubled and closing slashes; "." for nothing.
std::string normalize(const std::string& path) {
  bool absolute = path.starts_with('/');
  std::vector<std::string> parts;
  for (size_t at = 0; at <= path.size();) {
    size_t end = std::min(path.find('/', at), path.size());
    std::string part = path.substr(at, end - at);
    at = end + 1;
    if (part.empty() || part == ".") continue;
    if (part == ".." && !parts.empty() && parts.back() != "..") {
      parts.pop_back();
    } else if (part != ".." || !absolute) {
      parts.push_back(part);
    }
  }
  std::string normal = absolute ? "/" : "";
  for (size_t i = 0; i < parts.size(); i++) normal += (i > 0 ? "/" : "") + parts[i];
  return normal.empty() ? "." : normal;
}

void set_kind(WalkEntry& entry, mode_t mode) {
  entry.is_file = S_ISREG(mode);
  entry.is_directory = S_ISDIR(mode);
  entry.is_symlink = S_ISLNK(mode);
}

WalkEntry root_entry(const std::string& path) {
  WalkEntry entry;
  entry.path = normalize(path);
  entry.name = entry.path.substr(entry.path.rfind('/') + 1);
  struct stat status {};
  if (::stat(entry.path.c_str(), &status) < 0) throw_errno(on_path("stat", path));
  set_kind(entry, status.st_mode);
  return entry;
}

std::vector<WalkEntry> list(const std::string& path) {
  std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(path.c_str()), ::closedir);
  if (!folder) throw_errno(on_path("readdir", path));
  std::vector<WalkEntry> entries;
  for (;;) {
    errno = 0;
    const dirent* found = ::readdir(folder.get());
    if (found == nullptr && errno != 0) throw_errno(on_path("readdir", path));
    if (found == nullptr) break;
    WalkEntry entry;
    entry.name = found->d_name;
    if (entry.name == "." || entry.name == "..") continue;
    entry.path = join(path, entry.name);
    auto mode = static_cast<mode_t>(DTTOIF(found->d_type));
    struct stat status {};
    if (found->d_type == DT_UNKNOWN) {
      if (::lstat(entry.path.c_str(), &status) < 0) continue;  // gone meanwhile
      mode = status.st_mode;
    }
    set_kind(entry, mode);
    entries.push_back(std::move(entry));
  }
  // The system's order means nothing; this one can be relied on, and taken from the back.
  std::sort(entries.begin(), entries.end(),
            [](const WalkEntry& a, const WalkEntry& b) { return a.name > b.name; });
  return entries;
}

// Follows a link: its entry becomes that of what it leads to.
void follow_link(WalkEntry& entry, bool canonicalize) {
  std::unique_ptr<char, void (*)(void*)> real(::realpath(entry.path.c_str(), nullptr), std::free);
  if (!real) throw_errno(on_path("realpath", entry.path));
  struct stat status {};
  if (::lstat(real.get(), &status) < 0) throw_errno(on_path("lstat", real.get()));
  if (canonicalize) entry.path = real.get();
  set_kind(entry, status.st_mode);
}

// The folder itself first, each folder before what is in it. False when `take` has had enough.
bool walk(const std::string& root, const WalkOptions& options, const TakeEntry& take,
          const GoesOn& goes_on) {
  if (options.max_depth < 0) return true;
  if (options.folders && is_wanted(options, root, true) && !take(root_entry(root))) return false;
  if (options.max_depth < 1 || !is_wanted(options, root, false)) return true;
  std::vector<std::vector<WalkEntry>> levels;
  levels.push_back(list(root));
  while (!levels.empty()) {
    if (!goes_on()) return false;
    if (levels.back().empty()) {
      levels.pop_back();
      continue;
    }
    WalkEntry entry = std::move(levels.back().back());
    levels.back().pop_back();
    if (entry.is_symlink && !options.follow) {
      if (options.symlinks && is_wanted(options, entry.path, true) && !take(entry)) return false;
      continue;
    }
    if (entry.is_symlink) follow_link(entry, options.canonicalize);
    if (!entry.is_directory) {
      if (options.files && is_wanted(options, entry.path, true) && !take(entry)) return false;
      continue;
    }
    if (options.folders && is_wanted(options, entry.path, true) && !take(root_entry(entry.path)))
      return false;
    if (static_cast<double>(levels.size()) >= options.max_depth ||
        !is_wanted(options, entry.path, false))
      continue;
    if (levels.size() >= kMaxDepth) throw errno_failure(ELOOP, on_path("readdir", entry.path));
    levels.push_back(list(entry.path));
  }
  return true;
}

std::string absolute(const std::string& path, const std::string& base) {
  return path.starts_with('/') ? normalize(path) : normalize(base + "/" + path);
}

std::string working_directory() {
  std::array<char, PATH_MAX> path;
  if (::getcwd(path.data(), path.size()) == nullptr) throw_errno("cwd");
  return path.data();
}

class GlobExpansion {
 public:
  explicit GlobExpansion(const Json& params) {
    std::string glob = text_of(params, "glob");
    options_.extended = flag_of(params, "extended", true);
    options_.globstar = flag_of(params, "globstar", true);
    options_.ignore_case = flag_of(params, "caseInsensitive", false);
    folders_ = flag_of(params, "includeDirs", true);
    walk_.follow = flag_of(params, "followSymlinks", false);
    walk_.canonicalize = flag_of(params, "canonicalize", true);
    std::string root = absolute(optional_text(params, "root").value_or("."), working_directory());
    only_folders_ = glob.ends_with('/');
    start_ = glob.starts_with('/') ? "/" : root;
    for (const std::string& text : texts_of(params, "exclude"))
      walk_.skip.push_back(glob_regex(absolute(text, root), options_));
    for (size_t at = 0; at <= glob.size();) {
      size_t end = std::min(glob.find('/', at), glob.size());
      if (end > at) segments_.push_back(glob.substr(at, end - at));
      at = end + 1;
    }
    // What is no pattern is gone to at once.
    while (!segments_.empty() && !is_glob(segments_.front())) {
      start_ = normalize(join(start_, segments_.front()));
      segments_.erase(segments_.begin());
    }
    for (const std::string& segment : segments_) patterns_.push_back(glob_regex(segment, options_));
  }

  void run(const TakeEntry& take, const GoesOn& goes_on) const {
    std::map<std::string, WalkEntry> matches;
    try {
      add(matches, root_entry(start_));
    } catch (const Failure& failure) {
      if (failure.code == "ENOENT") return;
      throw;
    }
    for (size_t i = 0; i < segments_.size(); i++) {
      std::map<std::string, WalkEntry> next;
      for (const auto& [path, entry] : matches) {
        if (!goes_on()) return;
        advance(entry, i, next, goes_on);
      }
      matches = std::move(next);
    }
    for (const auto& [path, entry] : matches) {
      if ((only_folders_ && !entry.is_directory) || (!folders_ && entry.is_directory)) continue;
      if (!take(entry)) return;
    }
  }

 private:
  void add(std::map<std::string, WalkEntry>& to, WalkEntry entry) const {
    std::string path = entry.path;
    to[path] = std::move(entry);
  }

  void advance(const WalkEntry& entry, size_t segment, std::map<std::string, WalkEntry>& to,
               const GoesOn& goes_on) const {
    if (!entry.is_directory) return;
    const std::string& glob = segments_[segment];
    if (glob == "." || glob == "..") {
      std::string path = normalize(join(entry.path, glob));
      if (!matches_any(walk_.skip, path)) add(to, root_entry(path));
      return;
    }
    WalkOptions options = walk_;
    bool is_globstar = glob == "**" && options_.globstar;
    options.max_depth = is_globstar ? INFINITY : 1;
    walk(
        entry.path, options,
        [&](const WalkEntry& found) {
          if (is_globstar ||
              (found.path != entry.path && std::regex_match(found.name, patterns_[segment])))
            add(to, found);
          return true;
        },
        goes_on);
  }

  GlobOptions options_;
  WalkOptions walk_;
  bool folders_ = true, only_folders_ = false;
  std::string start_;
  std::vector<std::string> segments_;
  std::vector<std::regex> patterns_;
};

}  // namespace

Json WalkEntry::to_json() const {
  return {{"path", path},
          {"name", name},
          {"isFile", is_file},
          {"isDirectory", is_directory},
          {"isSymlink", is_symlink}};
}

Walk make_walk(const Json& params) {
  WalkOptions options;
  std::string root = text_of(params, "path");
  options.max_depth = optional_number(params, "maxDepth").value_or(INFINITY);
  options.files = flag_of(params, "includeFiles", true);
  options.folders = flag_of(params, "includeDirs", true);
  options.symlinks = flag_of(params, "includeSymlinks", true);
  options.follow = flag_of(params, "followSymlinks", false);
  options.canonicalize = flag_of(params, "canonicalize", true);
  for (const std::string& ending : texts_of(params, "exts"))
    options.endings.push_back(ending.starts_with('.') ? ending : "." + ending);
  if (params.contains("match") && !params["match"].is_null())
    options.match = read_regexes(params, "match");
  options.skip = read_regexes(params, "skip");
  return [root, options](const TakeEntry& take, const GoesOn& goes_on) {
    walk(root, options, take, goes_on);
  };
}

Walk make_glob_expansion(const Json& params) {
  return [expansion = GlobExpansion(params)](const TakeEntry& take, const GoesOn& goes_on) {
    expansion.run(take, goes_on);
  };
}

}  // namespace hutch::agent::rpc
