// What every verb that builds a model or trains shares: the flags of TrainConfig, --config, --print-config, --help, --log-format.
#pragma once

#include <functional>
#include <optional>

#include "apps/verbs.h"
#include "train/config.h"

namespace norma::apps {

struct ModelFlags {
  train::TrainConfig config;
  bool json = false;     // --log-format json
  bool resume = false;   // --resume
  Args words;            // what is not a flag
  Args given;            // names of the fields of TrainConfig that flags or --config set
};

/// Reads arguments into flags. Returns nothing when --help or --print-config answered already. `usage` is the verb's own help text,
/// printed above the table of flags. A first word "vit" names the model. `only`: the groups and names of TrainConfig's fields that mean
/// something to the verb (empty: all, and --resume); the other flags are refused. `check`: throws where the verb could not use what is
/// given, before --print-config prints it. `defaults`: where the verb's are not those of training. `own`: adds the verb's own flags, named in
/// `only` too.
std::optional<ModelFlags> read_model_flags(const Args& args, const char* usage, const std::vector<std::string>& only,
                                           const std::function<void(const ModelFlags&)>& check, const train::TrainConfig& defaults = {},
                                           const std::function<void(train::Options&)>& own = {});

/// Throws UsageError where words are left: these verbs know of the model's name alone.
void refuse_words(const ModelFlags& flags, const char* verb);

/// What is wrong with any model and any data set, in a UsageError that names the flag, or file and field, before anything is read or allocated. With
/// sizes within these bounds no count of elements overflows: what is too large for this machine is told by the allocation, with its bytes.
void check_fields(const train::TrainConfig& config);

/// The model, with images of one patch where the data set is to tell their size. Throws UsageError where there is none of such flags, whatever the images.
models::ViTConfig shape_without_data(train::TrainConfig config);

/// Throws UsageError where so many threads could not be started, or are fewer than 0, which stands for all cores.
void check_threads(Index threads, const std::string& where = "--threads");

/// Sets threads, GEMM provider and instruction set and checks the device, before the first tensor is made.
void prepare(const train::TrainConfig& config);

}  // namespace norma::apps
