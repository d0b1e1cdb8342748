#include "support/flags.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdlib>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace fa::support {

Flag& Flag::within(int64_t least, int64_t most) {
  option_->check(CLI::Range(least, most));
  return *this;
}

Flag& Flag::one_of(const std::set<std::string>& values) {
  option_->check(CLI::IsMember(values));
  return *this;
}

Flag& Flag::not_negative() {
  option_->check(CLI::NonNegativeNumber);
  return *this;
}

Flag& Flag::unsigned_number() {
  return check(
      [](const std::string& text) -> std::string {
        errno = 0;
        std::strtoull(text.c_str(), nullptr, 0);
        if (errno != ERANGE && text.find('-') == text.npos) return {};
        return fmt::format("is {}; allowed are 0 to {}", text,
                           std::numeric_limits<uint64_t>::max());
      },
      "");
}

Flag& Flag::check(std::function<std::string(const std::string&)> problem,
                  const std::string& allowed) {
  option_->check(CLI::Validator(std::move(problem), allowed));
  return *this;
}

Flag& Flag::group(const std::string& name) {
  option_->group(name);
  return *this;
}

Flag& Flag::type_name(const std::string& name) {
  option_->type_name(name);
  return *this;
}

Flag& Flag::show_default() {
  option_->capture_default_str();
  return *this;
}

Flag& Flag::required() {
  option_->required();
  return *this;
}

Flag& Flag::needs(const Flag& other) {
  option_->needs(other.option_);
  return *this;
}

Flag& Flag::excludes(const Flag& other) {
  option_->excludes(other.option_);
  return *this;
}

Flags Flags::command(const std::string& name, const std::string& description) const {
  return Flags(*app_->add_subcommand(name, description));
}

template <typename T>
Flag Flags::value(const std::string& name, T& to, const std::string& help) const {
  return Flag(app_->add_option(name, to, help));
}
template Flag Flags::value(const std::string&, int&, const std::string&) const;
template Flag Flags::value(const std::string&, int64_t&, const std::string&) const;
template Flag Flags::value(const std::string&, uint64_t&, const std::string&) const;
template Flag Flags::value(const std::string&, double&, const std::string&) const;
template Flag Flags::value(const std::string&, std::string&, const std::string&) const;
template Flag Flags::value(const std::string&, std::optional<int64_t>&, const std::string&) const;
template Flag Flags::value(const std::string&, std::optional<double>&, const std::string&) const;
template Flag Flags::value(const std::string&, std::vector<int64_t>&, const std::string&) const;
template Flag Flags::value(const std::string&, std::vector<std::string>&, const std::string&) const;

Flag Flags::on(const std::string& name, bool& to, const std::string& help) const {
  return Flag(app_->add_flag(name, to, help));
}

void Flags::all_need(const Flag& flag) const {
  for (CLI::Option* option : app_->get_options()) {
    if (option != flag.option_ && option != app_->get_help_ptr()) option->needs(flag.option_);
  }
}

void Flags::footer(const std::string& text) const { app_->footer(text); }

void Flags::hide() const { app_->group(""); }

}  // namespace fa::support
