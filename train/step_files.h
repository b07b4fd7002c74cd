// Files that are called by a step: BEFORE-STEP.safetensors, the step in nine digits, more where it needs them.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"

namespace norma::train {

/// "checkpoint-000000012.safetensors" of "checkpoint-" and 12.
std::string step_file(std::string_view before, Index step);

/// The step that a name tells; -1 where it is not called so: somebody else's file.
Index step_of_file(std::string_view before, const std::string& name);

/// The steps that have such a file in a folder, in order; none where there is no folder. Throws where it cannot be listed.
std::vector<Index> steps_in(const std::filesystem::path& folder, std::string_view before);

}  // namespace norma::train
