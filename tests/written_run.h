// Run folders written by hand: small, and wrong where a test wants them so.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "train/json.h"

namespace norma::test {

/// Texts that the program's pages accept: a config.json, and one line of metrics.jsonl (without its end), of step 0.
extern const std::string good_config, good_row;

void write(const std::filesystem::path& file, const std::string& text);

/// A fresh folder with these two files.
std::filesystem::path written_run(const std::string& name, const std::string& config, const std::string& metrics);

/// `text` with `from`, which must be there, replaced.
std::string replaced(std::string text, const std::string& from, const std::string& to);

/// The rows of a run's metrics.jsonl that tell a training step.
std::vector<train::Json> steps_of(const std::filesystem::path& run);

/// The data inside a page.
train::Json data_of(const std::string& html);

}  // namespace norma::test
