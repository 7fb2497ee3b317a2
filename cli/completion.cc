// The verb `completion`: scripts that let a shell complete hutch's verbs and options.
#include <fmt/format.h>

#include <memory>

#include "cli/arguments.h"

namespace hutch::cli {
namespace {

std::vector<const CLI::App*> verbs_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* verb) { return !verb->get_group().empty(); });
}

// Calls `visit` with each verb and its path, such as "machine start"; the program itself has "".
template <typename Visit>
void walk(const CLI::App& app, const std::string& path, Visit visit) {
  visit(app, path);
  for (const CLI::App* verb : verbs_of(app))
    walk(*verb, path.empty() ? verb->get_name() : path + " " + verb->get_name(), visit);
}

std::string join(const std::vector<std::string>& words, const char* separator) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : separator) + word;
  return text;
}

std::vector<std::string> option_names(const CLI::App& app, bool with_value_only) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    if (with_value_only && value_name(*option).empty()) continue;
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::string bash(const CLI::App& root) {
  std::string verbs, options, values;
  walk(root, "", [&](const CLI::App& app, const std::string& path) {
    std::vector<std::string> names;
    for (const CLI::App* verb : verbs_of(app)) names.push_back(verb->get_name());
    verbs += fmt::format("    '{}') verbs='{}' ;;\n", path, join(names, " "));
    options +=
        fmt::format("    '{}') options='{}' ;;\n", path, join(option_names(app, false), " "));
    values += fmt::format("    '{}') values=' {} ' ;;\n", path, join(option_names(app, true), " "));
  });
  return fmt::format(
      R"(# bash completion for hutch. Use it in this shell: source <(hutch completion bash)
_hutch_words() {{
  case $1 in
{}  esac
  case $1 in
{}  esac
  case $1 in
{}  esac
}}
_hutch() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} path='' verbs options values i word
  COMPREPLY=()
  _hutch_words ''
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${{COMP_WORDS[i]}}
    if [[ $values == *" $word "* ]]; then
      i=$((i + 1))
    elif [[ $word == -- ]]; then
      break
    elif [[ $word != -* ]]; then
      [[ " $verbs " == *" $word "* ]] || break
      path=${{path:+$path }}$word
      _hutch_words "$path"
    fi
  done
  # Behind the command of `run` and `exec`, and for the value of an option: files.
  if ((i == COMP_CWORD)); then
    if [[ $current == -* ]]; then
      mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    elif [[ -n $verbs ]]; then
      mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$current")
    else
      mapfile -t COMPREPLY < <(compgen -c -- "$current")
    fi
  fi
}}
complete -o default -F _hutch hutch
)",
      verbs, options, values);
}

// Text in single quotes of zsh's _arguments, where brackets and colons have a meaning.
std::string zsh_text(const std::string& text) {
  std::string result;
  for (char c : text) {
    if (c == '\'') {
      result += "'\\''";
      continue;
    }
    if (c == '[' || c == ']' || c == ':') result += '\\';
    result += c;
  }
  return result;
}

std::string zsh(const CLI::App& root) {
  std::string functions;
  walk(root, "", [&](const CLI::App& app, const std::string& path) {
    std::string name = "_hutch";
    for (char c : path.empty() ? "" : "_" + path) name += c == ' ' ? '_' : c;
    functions += name + "() {\n  _arguments -S -s";
    for (const CLI::Option* option : app.get_options()) {
      std::string value =
          value_name(*option).empty()
              ? ""
              : ":" + zsh_text(value_name(*option)) +
                    (value_name(*option).find("FILE") != std::string::npos  ? ":_files"
                     : value_name(*option).find("DIR") != std::string::npos ? ":_files -/"
                                                                            : ": ");
      for (const std::string& word : option_names_of(*option))
        functions +=
            fmt::format(" \\\n    '*{}[{}]{}'", word, zsh_text(option->get_description()), value);
    }
    std::vector<const CLI::App*> verbs = verbs_of(app);
    if (verbs.empty()) {
      functions += app.get_prefix_command() ? " \\\n    '*::command:_normal'\n}\n" : "\n}\n";
      return;
    }
    functions += " \\\n    '1:verb:->verb' \\\n    '*::argument:->argument' && return\n";
    functions += "  case $state in\n  verb)\n    local -a verbs=(";
    for (const CLI::App* verb : verbs)
      functions +=
          fmt::format("\n      '{}:{}'", verb->get_name(), zsh_text(verb->get_description()));
    functions += "\n    )\n    _describe verb verbs ;;\n  argument)\n    case $words[1] in\n";
    for (const CLI::App* verb : verbs)
      functions += fmt::format("    {}) {}_{} ;;\n", verb->get_name(), name, verb->get_name());
    functions += "    esac ;;\n  esac\n}\n";
  });
  return "#compdef hutch\n# zsh completion for hutch. Put it into a folder of $fpath as _hutch, "
         "or: "
         "source <(hutch completion zsh)\n" +
         functions + "compdef _hutch hutch\n";
}

std::string fish_text(const std::string& text) {
  std::string result;
  for (char c : text) {
    if (c == '\'' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

std::string fish(const CLI::App& root) {
  std::string lines =
      "# fish completion for hutch. Put it into ~/.config/fish/completions/hutch.fish\n"
      "complete -c hutch -f\n";
  walk(root, "", [&](const CLI::App& app, const std::string& path) {
    std::vector<std::string> names;
    for (const CLI::App* verb : verbs_of(app)) names.push_back(verb->get_name());
    std::string condition = path.empty() ? "__fish_use_subcommand" : "";
    for (size_t start = 0; !path.empty() && start < path.size();) {
      size_t end = std::min(path.find(' ', start), path.size());
      condition += (condition.empty() ? "" : "; and ") +
                   fmt::format("__fish_seen_subcommand_from {}", path.substr(start, end - start));
      start = end + 1;
    }
    std::string without_verb = condition;
    if (!path.empty() && !names.empty())
      without_verb += "; and not __fish_seen_subcommand_from " + join(names, " ");
    for (const CLI::App* verb : verbs_of(app))
      lines += fmt::format("complete -c hutch -n '{}' -a {} -d '{}'\n", without_verb,
                           verb->get_name(), fish_text(verb->get_description()));
    for (const CLI::Option* option : app.get_options()) {
      lines += fmt::format("complete -c hutch -n '{}'", without_verb);
      for (const std::string& name : option->get_snames()) lines += " -s " + name;
      for (const std::string& name : option->get_lnames()) lines += " -l " + name;
      if (!value_name(*option).empty()) {
        bool files = value_name(*option).find("FILE") != std::string::npos ||
                     value_name(*option).find("DIR") != std::string::npos;
        lines += files ? " -r -F" : " -x";
      }
      lines += fmt::format(" -d '{}'\n", fish_text(option->get_description()));
    }
    if (app.get_prefix_command())
      lines +=
          fmt::format("complete -c hutch -n '{}' -a '(__fish_complete_subcommand)'\n", condition);
  });
  return lines;
}

}  // namespace

std::vector<std::string> option_names_of(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  return names;
}

void add_completion(Program& program) {
  CLI::App* verb =
      program.app.add_subcommand("completion", "Print a completion script for a shell");
  auto shell = std::make_shared<std::string>();
  verb->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  verb->footer(
      "Examples:\n  source <(hutch completion bash)\n"
      "  hutch completion zsh >~/.zfunc/_hutch\n"
      "  hutch completion fish >~/.config/fish/completions/hutch.fish");
  verb->callback([&program, shell] {
    program.action = [&program, shell] {
      fmt::print("{}", *shell == "bash"  ? bash(program.app)
                       : *shell == "zsh" ? zsh(program.app)
                                         : fish(program.app));
      return 0;
    };
  });
}

}  // namespace hutch::cli
