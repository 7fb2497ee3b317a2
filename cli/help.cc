// The text of --help: options in two columns, wrapped for a terminal of 80 columns or more.
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "cli/arguments.h"
#include "cli/terminal.h"

namespace hutch::cli {
namespace {

constexpr size_t kIndent = 28;

// `text` in lines of at most `width`, all but the first indented by kIndent.
std::string wrapped(const std::string& text, size_t width) {
  std::string result;
  size_t column = kIndent;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    bool first = result.empty();
    if (!first && column + 1 + word.size() > width) {
      result += "\n" + std::string(kIndent, ' ');
      column = kIndent;
      first = true;
    }
    result += (first ? "" : " ") + word;
    column += word.size() + (first ? 0 : 1);
  }
  return result;
}

std::string two_columns(const std::string& left, const std::string& right) {
  size_t width = 80;
  if (::isatty(STDOUT_FILENO) == 1) width = std::clamp<size_t>(window_size().columns, 60, 120);
  std::string start = "  " + left;
  if (start.size() + 2 > kIndent) {
    start += "\n" + std::string(kIndent, ' ');
  } else {
    start.resize(kIndent, ' ');
  }
  return start + wrapped(right, width) + "\n";
}

class Formatter final : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool) const override {
    return two_columns(option_words(*option), option->get_description());
  }
  std::string make_subcommand(const CLI::App* verb) const override {
    return two_columns(verb->get_name(), verb->get_description());
  }
  std::string make_usage(const CLI::App* app, std::string) const override {
    return "Usage: " + usage(*app) + "\n";
  }
  std::string make_description(const CLI::App* app) const override {
    return app->get_description() + ".\n";
  }
};

std::string full_name(const CLI::App& app) {
  const CLI::App* parent = app.get_parent();
  return parent == nullptr ? app.get_name() : full_name(*parent) + " " + app.get_name();
}

}  // namespace

void use_help(CLI::App& app) {
  app.formatter(std::make_shared<Formatter>());
  app.set_help_flag("-h,--help", "Print this help");
}

std::string usage(const CLI::App& app) {
  std::string text = full_name(app) + " [OPTION]...";
  // Where a verb may be left out, it is another way to use this one.
  if (app.get_require_subcommand_min() > 0) text += " VERB";
  if (app.get_prefix_command()) text += " [--] [COMMAND [ARGUMENT]...]";
  for (const CLI::Option* option : app.get_options())
    if (option->get_positional()) text += " " + option->get_name(true);
  return text;
}

std::string option_words(const CLI::Option& option) {
  if (option.get_positional() && option.get_lnames().empty()) return option.get_name(true);
  std::string text;
  for (const std::string& name : option.get_snames()) text += (text.empty() ? "-" : ", -") + name;
  for (const std::string& name : option.get_lnames()) text += (text.empty() ? "--" : ", --") + name;
  std::string type = value_name(option);
  return type.empty() ? text : text + " " + type;
}

std::string value_name(const CLI::Option& option) {
  if (option.get_expected_max() == 0) return "";
  // What a validator adds to it ("INT in [1 - 16]") is said by the description.
  std::string type = option.get_type_name();
  return type.substr(0, type.find(':') == std::string::npos || type.find('[') < type.find(':')
                            ? std::string::npos
                            : type.find(':'));
}

}  // namespace hutch::cli
