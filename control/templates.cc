#include "control/templates.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/post.hpp>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "base/log.h"
#include "base/sys.h"
#include "control/layer_files.h"
#include "control/private_file.h"

namespace hutch::control {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

constexpr const char* kMemory = "/memory";
constexpr const char* kState = "/state";
constexpr const char* kUnfinished = ".new";

// The name of a file's content, as far as that can be had without reading it.
std::string identity_of(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) < 0) return path + ":missing";
  return fmt::format("{}:{}:{}:{}.{}", path, status.st_ino, status.st_size, status.st_mtim.tv_sec,
                     status.st_mtim.tv_nsec);
}

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
std::array<uint8_t, 16> read_key(const std::string& path) {
  std::array<uint8_t, 16> key{};
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

}  // namespace

// How many threads are at it.
struct Templates::Finishing {
  std::mutex mutex;
  std::condition_variable changed;
  int count = 0;
};

Draft::Draft(std::string folder, std::string target)
    : folder_(std::move(folder)), target_(std::move(target)) {
  if (::mkdir(folder_.c_str(), 0700) < 0)
    throw std::runtime_error(fmt::format("making {}: {}", folder_, std::strerror(errno)));
  memory = make(folder_ + kMemory);
  state = make(folder_ + kState);
}

Draft::~Draft() {
  std::error_code ignored;
  if (!folder_.empty()) fs::remove_all(folder_, ignored);
}

Result<void> Draft::keep() {
  for (const Fd* file : {&memory, &state})
    if (::fsync(file->get()) < 0) return fail_errno(errno, "flushing a saved machine");
  TRY(keep_layers(layers, folder_));
  if (::rename(folder_.c_str(), target_.c_str()) < 0)
    return fail_errno(errno, fmt::format("making {}", target_));
  folder_.clear();
  return {};
}

void Draft::finish(std::unique_ptr<Draft> draft, std::function<void()> done) {
  std::thread([draft = std::move(draft), done = std::move(done)]() mutable {
    Result<void> kept = draft->keep();
    if (!kept) log_warning("a template cannot be kept: {}", kept.error().text());
    draft.reset();
    done();
  }).detach();
}

Templates::Templates(asio::io_context& context, std::string folder, const artefacts::Parts& parts,
                     bool on)
    : context_(context),
      folder_(std::move(folder)),
      on_(on),
      finishing_(std::make_shared<Finishing>()) {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error || ::chmod(folder_.c_str(), 0700) < 0)
    throw std::runtime_error(fmt::format("the folder {} cannot be made: {}", folder_,
                                         error ? error.message() : std::strerror(errno)));
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, error))
    if (entry.path().extension() == kUnfinished) fs::remove_all(entry.path(), error);
  key_ = read_key(folder_ + "/key");
  identity_ = HUTCH_VERSION;
  for (const std::string& path :
       {parts.kernel, parts.initramfs, parts.image, parts.layer, parts.vmm})
    identity_ += "\n" + identity_of(path);
}

Templates::~Templates() {
  std::unique_lock lock(finishing_->mutex);
  finishing_->changed.wait(lock, [this] { return finishing_->count == 0; });
}

std::string Templates::name(const Shape& shape) const {
  return hash(fmt::format("{}\n{} {} {} {} {}", identity_, shape.memory, shape.cpus, shape.network,
                          shape.ipv6, shape.organisation));
}

std::optional<Template> Templates::find(const Shape& shape) const {
  if (!on_) return std::nullopt;
  std::string name = this->name(shape);
  // While it is on its way to the disk as well: it is whole then.
  std::string folder = folder_ + "/" + name;
  Result<Fd> memory = open_file(folder + kMemory, O_RDONLY);
  Result<Fd> state = open_file(folder + kState, O_RDONLY);
  Result<std::vector<Fd>> layers = open_layers(folder);
  if (!memory || !state || !layers) return std::nullopt;
  Template found;
  found.memory = *std::move(memory);
  found.state = *std::move(state);
  found.layers = *std::move(layers);
  found.key = key_;
  return found;
}

std::unique_ptr<Draft> Templates::begin(const Shape& shape) {
  if (!on_) return nullptr;
  std::string name = this->name(shape);
  std::string target = folder_ + "/" + name;
  if (fs::exists(target) || !busy_.insert(name).second) return nullptr;
  try {
    return std::make_unique<Draft>(target + kUnfinished, target);
  } catch (const std::exception& error) {
    log_warning("no template: {}", error.what());
    return nullptr;
  }
}

std::unique_ptr<Draft> Templates::begin_own() {
  return std::make_unique<Draft>(fmt::format("{}/own-{}{}", folder_, ++own_, kUnfinished), "");
}

std::shared_ptr<const Template> Templates::finish_own(std::unique_ptr<Draft> draft) const {
  auto result = std::make_shared<Template>();
  result->memory = std::move(draft->memory);
  result->state = std::move(draft->state);
  result->layers = std::move(draft->layers);
  result->key = key_;
  result->owner = std::shared_ptr<Draft>(std::move(draft));
  return result;
}

void Templates::finish(const Shape& shape, std::unique_ptr<Draft> draft) {
  {
    std::lock_guard lock(finishing_->mutex);
    finishing_->count++;
  }
  Draft::finish(std::move(draft), [this, finishing = finishing_, name = name(shape)] {
    asio::post(context_, [this, name] { busy_.erase(name); });
    std::lock_guard lock(finishing->mutex);
    finishing->count--;
    finishing->changed.notify_all();
  });
}

void Templates::give_up(const Shape& shape, std::unique_ptr<Draft> draft) {
  draft.reset();
  busy_.erase(name(shape));
}

void Templates::discard(const Shape& shape) {
  std::string name = this->name(shape);
  busy_.insert(name);
  std::error_code error;
  fs::remove_all(folder_ + "/" + name, error);
  if (error) log_warning("the template {} cannot be removed: {}", name, error.message());
}

}  // namespace hutch::control
