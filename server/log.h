// One-line structured log on stderr: "ts=... level=info msg=\"...\" key=value ...".
//
// Values are quoted where they need to be, so a line stays one line whatever a client sends. Never
// give it prompt or generated text. Thread-safe: a line is written with one call.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace spotd::server {

enum class LogLevel { kInfo, kWarning, kError };

using LogField = std::pair<std::string_view, std::string>;

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});

// The line without its time stamp and newline. Fields without a value are left out.
std::string FormatLogLine(LogLevel level, std::string_view message,
                          std::initializer_list<LogField> fields);

}  // namespace spotd::server
