// The hidden verb `man`: prints a manual page in roff, made from the same descriptions as --help.
// The build writes and installs the pages with it.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "cli/arguments.h"
#include "cli/failure.h"

namespace hutch::cli {
namespace {

// roff reads a backslash and, at the start of a line, a dot or quote as its own.
std::string roff(const std::string& text) {
  std::string result;
  bool line_start = true;
  for (char c : text) {
    if (line_start && (c == '.' || c == '\'')) result += "\\&";
    if (c == '\\') {
      result += "\\e";
    } else if (c == '-') {
      result += "\\-";
    } else {
      result += c;
    }
    line_start = c == '\n';
  }
  return result;
}

bool is_shown(const CLI::App& app) {
  return !app.get_group().empty();
}

// A footer's paragraphs: those with a title, "Examples:" and indented lines, are sections of their
// own; the others are the description.
struct Footer {
  std::string description;
  std::string sections;
};

Footer split(const std::string& footer) {
  Footer result;
  for (size_t start = 0; start < footer.size();) {
    size_t end = std::min(footer.find("\n\n", start), footer.size());
    std::string part = footer.substr(start, end - start);
    start = end + 2;
    size_t line = part.find(":\n  ");
    if (line != std::string::npos && part.find('\n') > line) {
      std::string title = part.substr(0, line);
      for (char& c : title) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      result.sections += ".SH " + roff(title) + "\n.nf\n" + roff(part.substr(line + 2)) + "\n.fi\n";
    } else {
      result.description += ".PP\n" + roff(part) + "\n";
    }
  }
  return result;
}

std::string options(const CLI::App& app) {
  std::string result;
  for (const CLI::Option* option : app.get_options())
    result += fmt::format(".TP\n.B {}\n{}.\n", roff(option_words(*option)),
                          roff(option->get_description()));
  return result;
}

std::string page(const CLI::App& app, const std::string& name) {
  std::string upper = name;
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  std::string result = fmt::format(
      ".TH {} 1 \"\" \"hutch {}\" \"Hutch\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n.B {}\n",
      roff(upper), HUTCH_VERSION, roff(name), roff(app.get_description()), roff(usage(app)));
  Footer footer = split(app.get_footer());
  if (!footer.description.empty()) result += ".SH DESCRIPTION\n" + footer.description;
  result += ".SH OPTIONS\n" + options(app);
  auto verbs = app.get_subcommands([](const CLI::App* verb) { return is_shown(*verb); });
  if (!verbs.empty()) result += ".SH VERBS\n";
  for (const CLI::App* verb : verbs) {
    result += fmt::format(".SS {}\n{}.\n", roff(verb->get_name()), roff(verb->get_description()));
    if (app.get_parent() == nullptr) continue;  // a page of its own, or --help, says more
    result += fmt::format(".PP\n.B {}\n{}", roff(usage(*verb)), options(*verb));
  }
  return result + footer.sections;
}

}  // namespace

void add_man(Program& program) {
  CLI::App* verb = program.app.add_subcommand("man", "Print a manual page in roff");
  verb->group("");  // not shown
  auto name = std::make_shared<std::string>("hutch");
  verb->add_option("PAGE", *name, "hutch, or hutch-VERB");
  verb->callback([&program, name] {
    program.action = [&program, name] {
      const CLI::App* app = &program.app;
      if (*name != "hutch") {
        std::string wanted = name->starts_with("hutch-") ? name->substr(6) : *name;
        auto found = program.app.get_subcommands(
            [&](const CLI::App* each) { return is_shown(*each) && each->get_name() == wanted; });
        if (found.empty())
          throw Failure("not_found", "there is no manual page " + *name,
                        "try: hutch man hutch-run");
        app = found.front();
      }
      fmt::print("{}", page(*app, app == &program.app ? "hutch" : "hutch-" + app->get_name()));
      return 0;
    };
  });
}

}  // namespace hutch::cli
