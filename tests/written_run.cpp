#include "tests/written_run.h"

#include <catch2/catch.hpp>

#include <fstream>
#include <sstream>

#include "tests/program.h"

namespace norma::test {
namespace fs = std::filesystem;

const std::string good_config = R"({"model": "vit", "attention": "softmax", "pool": "cls", "data": "fashion-mnist", "optimizer": "adamw", "image": 0,
  "patch": 7, "width": 32, "depth": 2, "heads": 2, "batch": 64, "epochs": 1, "seed": 1, "lr": 0.001})";
const std::string good_row = R"({"step": 0, "epoch": 0.0, "loss": 2.5, "accuracy": 0.1, "lr": 1e-6, "grad_norm": 1.5, "skipped": 0, "attention": [)"
                             R"({"place": "blocks.0.attn.stats", "fro": [1.0, 2.0]}], "parameters": {"head.bias": {"weight": 0.0, "grad": 0.5}}})";

void write(const fs::path& file, const std::string& text) { std::ofstream(file, std::ios::binary) << text; }

fs::path written_run(const std::string& name, const std::string& config, const std::string& metrics) {
  const fs::path run = fresh_folder(name);
  write(run / "config.json", config);
  write(run / "metrics.jsonl", metrics);
  return run;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  REQUIRE(text.find(from) != std::string::npos);
  return text.replace(text.find(from), from.size(), to);
}

std::vector<train::Json> steps_of(const fs::path& run) {
  std::vector<train::Json> rows;
  std::istringstream lines(contents(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);)
    if (auto row = train::Json::parse(line); row.contains("loss")) rows.push_back(row);
  return rows;
}

train::Json data_of(const std::string& html) {
  const std::string mark = "<script type=\"application/json\" id=\"data\">";
  const std::size_t begin = html.find(mark) + mark.size();
  return train::Json::parse(html.substr(begin, html.find("</script>", begin) - begin));
}

}  // namespace norma::test
