// One-line structured log on stderr, as text ("ts=... level=info msg=\"...\" key=value ...") or as
// one JSON object a line.
//
// A line stays one line whatever a client sends. Never give it prompt or generated text.
// Thread-safe: a line is written with one call.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace spotd::server {

enum class LogLevel { kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

using LogField = std::pair<std::string_view, std::string>;

// How lines are written from now on; less important ones than `least` are left out. For main.
void ConfigureLog(LogFormat format, LogLevel least);
// The values of --log_format ("auto" looks at stderr) and --log_level.
LogFormat ParseLogFormat(std::string_view name);
LogLevel ParseLogLevel(std::string_view name);

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});

// The line without its newline. Fields without a value are left out; in JSON all values are
// strings, and bytes that are not UTF-8 become U+FFFD.
std::string FormatLogLine(LogFormat format, std::string_view timestamp, LogLevel level,
                          std::string_view message, std::initializer_list<LogField> fields);

}  // namespace spotd::server
