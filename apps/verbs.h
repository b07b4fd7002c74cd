// The verbs of the `norma` program: one file each. A verb gets the arguments after its name and returns the exit code.
#pragma once

#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "train/options.h"

namespace norma::apps {

using Args = std::vector<std::string>;
using train::UsageError, train::as_usage, train::as_written;

enum Exit { ok = 0, failure = 1, usage_error = 2, diverged = 3 };  // and progress.h: interrupted()

int train_verb(const Args& args);
int eval_verb(const Args& args);
int compare_verb(const Args& args);
int inspect_verb(const Args& args);
int report_verb(const Args& args);
int watch_verb(const Args& args);
int info_verb(const Args& args);
int data_verb(const Args& args);
int gradcheck_verb(const Args& args);
int twin_verb(const Args& args);
int theory_verb(const Args& args);
int replay_verb(const Args& args);
int bench_verb(const Args& args);
int help_attention(std::size_t width);  // in lines of at most so many characters

/// Reads flags for `options`, sets nothing yet, and returns the other words; none where --help was asked for, which is printed then.
std::optional<Args> read_words(train::Options& options, const Args& args, std::string_view usage);

/// What a verb with flags of its own was given beside them.
struct Given {
  Args words;  // that are no flags
  bool json;   // --log-format
};
/// Adds --log-format and --help to the flags of `options`, and sets all of them; nothing where --help was asked for, which is printed then.
std::optional<Given> read_given(train::Options& options, const Args& args, std::string_view usage,
                                const char* about_log_format = "text, or json: one object on stdout");

/// Prints on stderr. Where that is full or closed nothing is told, which is no reason for a run to end.
template <class... A>
void tell(fmt::format_string<A...> text, A&&... args) {
  const std::string told = fmt::format(text, std::forward<A>(args)...);
  std::fwrite(told.data(), 1, told.size(), stderr);
}

/// Of --log-format: true for json, false for text; throws UsageError for another.
bool wants_json(const std::string& log_format);

/// For a number that is to be printed: NaN without its sign, which says nothing ("-nan").
inline double without_sign_of_nan(double v) { return std::isnan(v) ? std::abs(v) : v; }

/// Prints a result on stdout: as one JSON object when `json` is set, else as "key  value" lines.
void print_result(const nlohmann::ordered_json& result, bool json);

}  // namespace norma::apps
