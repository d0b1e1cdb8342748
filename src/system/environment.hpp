// The one place that reads the environment.
#pragma once

#include <string>

namespace fa::system {

/// The variable's value; empty where it is not set, and in a program that runs with more rights
/// than its caller has (set-uid, set-gid, file capabilities): none of them may choose its code or
/// folders.
std::string variable(const char* name);

/// A variable that names a folder. Nothing where it is relative: it would be another folder in
/// every current directory. `problem` then says so.
std::string folder_variable(const char* name, std::string& problem);

}  // namespace fa::system
