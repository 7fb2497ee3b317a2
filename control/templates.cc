#include "control/templates.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "base/log.h"
#include "base/sys.h"
#include "control/layer_files.h"
#include "control/private_file.h"

namespace hutch::control {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMemory = "/memory";
constexpr const char* kState = "/state";
constexpr const char* kUnfinished = ".new";

std::string hash(const std::string& text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (::EVP_Digest(text.data(), text.size(), digest, &size, ::EVP_sha256(), nullptr) != 1)
    throw std::runtime_error("OpenSSL has no SHA-256");
  std::string result;
  for (unsigned i = 0; i < 16 && i < size; i++) result += fmt::format("{:02x}", digest[i]);
  return result;
}

// The key that ties what is saved to this folder.
SealKey read_key(const std::string& path) {
  SealKey key{};
  Result<std::string> text = read_file(path, key.size());
  if (!text || text->size() != key.size()) {
    if (::getrandom(key.data(), key.size(), 0) != static_cast<ssize_t>(key.size()))
      throw std::runtime_error("the host has no random numbers");
    text = std::string(reinterpret_cast<const char*>(key.data()), key.size());
    write_private_file(path, *text);
  }
  std::memcpy(key.data(), text->data(), key.size());
  return key;
}

Fd make(const std::string& path) {
  return value_or_throw(open_file(path, O_RDWR | O_CREAT | O_EXCL, 0600));
}

// What a machine is forked from is never written by the forks' processes.
Fd read_only(const Fd& file) {
  return value_or_throw(open_file(fmt::format("/proc/self/fd/{}", file.get()), O_RDONLY));
}

}  // namespace

Draft::Draft(std::string folder) : folder_(std::move(folder)) {
  if (::mkdir(folder_.c_str(), 0700) < 0)
    throw std::runtime_error(fmt::format("making {}: {}", folder_, std::strerror(errno)));
  memory = make(folder_ + kMemory);
  state = make(folder_ + kState);
}

Draft::~Draft() {
  std::error_code ignored;
  if (!folder_.empty()) fs::remove_all(folder_, ignored);
}

void Draft::move_to(const std::string& folder) {
  if (::rename(folder_.c_str(), folder.c_str()) < 0)
    throw std::runtime_error(
        fmt::format("moving {} to {}: {}", folder_, folder, std::strerror(errno)));
  folder_.clear();
}

std::shared_ptr<Template> open_saved(const std::string& folder, const SealKey& key) {
  auto found = std::make_shared<Template>();
  found->memory = value_or_throw(open_file(folder + kMemory, O_RDONLY));
  found->state = value_or_throw(open_file(folder + kState, O_RDONLY));
  found->layers = value_or_throw(open_layers(folder));
  found->key = key;
  return found;
}

Templates::Templates(boost::asio::io_context& context, std::string folder,
                     const artefacts::Parts& parts, bool on)
    : folder_(std::move(folder)), on_(on), background_(context) {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error || ::chmod(folder_.c_str(), 0700) < 0)
    throw std::runtime_error(fmt::format("the folder {} cannot be made: {}", folder_,
                                         error ? error.message() : std::strerror(errno)));
  key_ = read_key(folder_ + "/key");
  std::string identity = HUTCH_VERSION;
  for (const std::string& path :
       {parts.kernel, parts.initramfs, parts.image, parts.layer, parts.vmm})
    identity += "\n" + identity_of(path);
  identity_ = hash(identity);
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, error))
    if (entry.is_directory()) found.push_back(entry);
  for (const fs::path& entry : found) {
    if (entry.extension() == kUnfinished) {
      fs::remove_all(entry, error);
    } else {
      busy_.insert(entry.filename());
      unchecked_.push_back(entry.filename());
    }
  }
  check_next();
}

// What an earlier server left; one after another, as each is read from the same disk.
void Templates::check_next() {
  if (unchecked_.empty()) return;
  const std::string name = std::move(unchecked_.back());
  unchecked_.pop_back();
  auto failure = std::make_shared<std::string>();
  background_.run(
      [path = folder_ + "/" + name, key = key_, identity = identity_, failure] {
        try {
          if (read_seal(path, key).at("identity") != identity)
            throw std::runtime_error("it is of another kernel, image or program");
          check_sealed_files(path, key);
        } catch (const std::exception& error) {
          *failure = error.what();
          std::error_code ignored;
          fs::remove_all(path, ignored);
        }
      },
      [this, name, failure] {
        try {
          if (!failure->empty()) throw std::runtime_error(*failure);
          usable_[name] = open_saved(folder_ + "/" + name, key_);
        } catch (const std::exception& error) {
          log_info("the template {} is removed: {}", name, error.what());
        }
        settled(name);
        check_next();
      });
}

std::string Templates::identity_of(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) < 0) return path + ":missing";
  return fmt::format("{}:{}:{}:{}.{}", path, status.st_ino, status.st_size, status.st_mtim.tv_sec,
                     status.st_mtim.tv_nsec);
}

std::string Templates::name(const Shape& shape) const {
  return hash(fmt::format("{}\n{} {} {} {} {}", identity_, shape.memory, shape.cpus, shape.network,
                          shape.ipv6, shape.organisation));
}

std::shared_ptr<const Template> Templates::find(const Shape& shape) const {
  auto found = usable_.find(name(shape));
  return on_ && found != usable_.end() ? found->second : nullptr;
}

std::unique_ptr<Draft> Templates::begin(const Shape& shape) {
  if (!on_) return nullptr;
  std::string name = this->name(shape);
  if (bad_.contains(name) || fs::exists(folder_ + "/" + name) || !busy_.insert(name).second)
    return nullptr;
  try {
    return std::make_unique<Draft>(folder_ + "/" + name + kUnfinished);
  } catch (const std::exception& error) {
    log_warning("no template: {}", error.what());
    settled(name);
    return nullptr;
  }
}

std::unique_ptr<Draft> Templates::begin_own() {
  return std::make_unique<Draft>(fmt::format("{}/own-{}{}", folder_, ++own_, kUnfinished));
}

std::shared_ptr<Template> Templates::open_draft(const Draft& draft) const {
  auto result = std::make_shared<Template>();
  result->memory = read_only(draft.memory);
  result->state = read_only(draft.state);
  for (const Fd& layer : draft.layers) result->layers.push_back(read_only(layer));
  result->key = key_;
  return result;
}

std::shared_ptr<const Template> Templates::finish_own(std::unique_ptr<Draft> draft) const {
  std::shared_ptr<Template> result = open_draft(*draft);
  result->owner = std::move(draft);
  return result;
}

// Its files are on their way to the disk for long.
void Templates::finish(const Shape& shape, std::unique_ptr<Draft> draft) {
  const std::string name = this->name(shape);
  try {
    usable_[name] = open_draft(*draft);
  } catch (const std::exception& error) {
    log_warning("no template: {}", error.what());
    return give_up(shape, std::move(draft));
  }
  auto failure = std::make_shared<std::string>();
  background_.run(
      [draft = std::shared_ptr<Draft>(std::move(draft)), target = folder_ + "/" + name, key = key_,
       identity = identity_, failure] {
        try {
          value_or_throw(keep_layers(draft->layers, draft->folder()));
          seal_folder(draft->folder(), key, {{"identity", identity}});
          draft->move_to(target);
        } catch (const std::exception& error) {
          *failure = error.what();
        }
      },
      [this, name, failure] {
        if (!failure->empty()) {
          log_warning("a template cannot be kept: {}", *failure);
          usable_.erase(name);
        } else if (bad_.contains(name)) {
          remove(name);
        }
        settled(name);
      });
}

void Templates::give_up(const Shape& shape, std::unique_ptr<Draft> draft) {
  draft.reset();
  settled(name(shape));
}

void Templates::settled(const std::string& name) {
  busy_.erase(name);
  while (waiting_.contains(name)) waiting_.extract(name).mapped()(usable_.contains(name));
}

void Templates::when_settled(const Shape& shape, std::function<void(bool)> done) {
  std::string name = this->name(shape);
  if (!busy_.contains(name)) return done(usable_.contains(name));
  waiting_.emplace(name, std::move(done));
}

bool Templates::wants_pages(const Shape& shape) {
  const std::string name = this->name(shape);
  auto found = usable_.find(name);
  return found != usable_.end() && !found->second->pages && recording_.insert(name).second;
}

void Templates::keep_pages(const Shape& shape, Fd pages) {
  const std::string name = this->name(shape);
  recording_.erase(name);
  auto found = usable_.find(name);
  if (found != usable_.end() && pages) found->second->pages = std::move(pages);
}

void Templates::discard(const Shape& shape) {
  std::string name = this->name(shape);
  bad_.insert(name);
  usable_.erase(name);
  remove(name);
}

void Templates::remove(const std::string& name) {
  std::error_code error;
  fs::remove_all(folder_ + "/" + name, error);
  if (error) log_warning("the template {} cannot be removed: {}", name, error.message());
}

}  // namespace hutch::control
