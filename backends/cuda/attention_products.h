// Which matrix instructions bf16 attention multiplies with: mma.sync on every device, or wgmma on those of compute
// capability 9.0.
#pragma once

#include <string_view>

namespace norma::cuda {

class Runtime;

enum class AttentionProducts { mma, wgmma };
/// What the environment variable NORMA_CUDA_ATTENTION names; mma where it names nothing. Throws Error at a word that is
/// neither, and where the device has no wgmma.
AttentionProducts attention_products(const Runtime& runtime);
/// Takes the variable's place from here on; throws at the same words.
void set_attention_products(std::string_view word);

}  // namespace norma::cuda
