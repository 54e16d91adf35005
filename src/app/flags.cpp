#include "app/flags.h"

#include <CLI/CLI.hpp>

namespace weft::app {

Flag& Flag::required() { return option_->required(), *this; }
Flag& Flag::range(int64_t low, int64_t high) { return option_->check(CLI::Range(low, high)), *this; }
Flag& Flag::positive() { return option_->check(CLI::PositiveNumber), *this; }
Flag& Flag::non_negative() { return option_->check(CLI::NonNegativeNumber), *this; }
Flag& Flag::existing_file() { return option_->check(CLI::ExistingFile), *this; }
Flag& Flag::one_of(std::initializer_list<const char*> words) {
  return option_->check(CLI::IsMember(std::vector<std::string>(words.begin(), words.end()))), *this;
}
Flag& Flag::value_name(const char* name) { return option_->type_name(name), *this; }
Flag& Flag::words(int least, int most) { return option_->expected(least, most), *this; }
Flag& Flag::part(const char* name) { return option_->group(name), *this; }
Flag& Flag::one_each() { return option_->allow_extra_args(false)->take_all(), *this; }
Flag& Flag::needs(const Flag& other) { return option_->needs(other.option_), *this; }
Flag& Flag::excludes(std::initializer_list<const char*> others) {
  for (const char* name : others)
    if (CLI::Option* other = app_->get_option_no_throw(name)) option_->excludes(other);
  return *this;
}

Flag Flags::option(const char* name, std::string& value, const char* help) { return {*app_, *app_->add_option(name, value, help)}; }
Flag Flags::option(const char* name, std::vector<std::string>& value, const char* help) { return {*app_, *app_->add_option(name, value, help)}; }
Flag Flags::option(const char* name, int& value, const char* help) { return {*app_, *app_->add_option(name, value, help)}; }
Flag Flags::option(const char* name, int64_t& value, const char* help) { return {*app_, *app_->add_option(name, value, help)}; }
Flag Flags::option(const char* name, uint64_t& value, const char* help) { return {*app_, *app_->add_option(name, value, help)}; }
Flag Flags::option(const char* name, double& value, const char* help) { return {*app_, *app_->add_option(name, value, help)}; }
Flag Flags::flag(const char* name, bool& value, const char* help) { return {*app_, *app_->add_flag(name, value, help)}; }
void Flags::footer(const char* text) { app_->footer(text); }
Flags Flags::subcommand(const char* name, const char* help) { return Flags(*app_->add_subcommand(name, help)); }
bool Flags::has(const char* subcommand) const { return app_->got_subcommand(subcommand); }

}  // namespace weft::app
