// The flags of a program's commands. CLI11 reads them; its header takes 5 s to compile, so that it
// is included where flags are parsed and in flags.cpp alone.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>

namespace CLI {  // NOLINT(readability-identifier-naming): CLI11's
class App;
class Option;
}  // namespace CLI

namespace fa::support {

/// One flag, to be described further.
class Flag {
 public:
  explicit Flag(CLI::Option* option) : option_(option) {}

  Flag& within(int64_t least, int64_t most);
  Flag& one_of(const std::set<std::string>& values);
  Flag& not_negative();
  /// For numbers of 64 bits without sign: refuses "-3" and 2^64, which would become others.
  Flag& unsigned_number();
  /// `problem` says what is wrong with a value, or nothing; the help shows `allowed`.
  Flag& check(std::function<std::string(const std::string&)> problem, const std::string& allowed);

  Flag& group(const std::string& name);  ///< of the help
  Flag& type_name(const std::string& name);
  Flag& show_default();
  Flag& required();
  Flag& needs(const Flag& other);
  Flag& excludes(const Flag& other);

 private:
  friend class Flags;
  CLI::Option* option_;
};

/// The flags of a program or of one command. What they are stored in must outlive the parsing.
class Flags {
 public:
  explicit Flags(CLI::App& app) : app_(&app) {}
  CLI::App& app() const { return *app_; }

  Flags command(const std::string& name, const std::string& description) const;
  /// A flag with a value: int, int64_t, uint64_t, double or std::string; also a vector of those.
  template <typename T>
  Flag value(const std::string& name, T& to, const std::string& help = "") const;
  /// A flag without one, which sets `to`.
  Flag on(const std::string& name, bool& to, const std::string& help = "") const;
  /// All flags that there are now, but for --help, need this one.
  void all_need(const Flag& flag) const;
  void footer(const std::string& text) const;
  /// The program's help does not list this command.
  void hide() const;

 private:
  CLI::App* app_;
};

}  // namespace fa::support
