// Batches of images as the host asks for them (the meaning of its parts: Backend's ImageCuts).
#pragma once

#include "core/element.h"
#include "core/image_edit.h"

namespace norma::cuda {

struct ImageBatch {
  const std::uint8_t* set = nullptr;
  const std::int64_t* cuts = nullptr;
  const ImageEdit* edits = nullptr;  // [batch, edit_count]
  std::uint8_t* scratch = nullptr;   // [batch, 2, channels, h, w] where there are edits
  const float* values = nullptr;
  void* out = nullptr;
  DType dtype = DType::f32;
  std::int32_t batch = 0, channels = 0, h = 0, w = 0, out_h = 0, out_w = 0, edit_count = 0;
};
void cut_image_batch(void* stream, const ImageBatch& b);

}  // namespace norma::cuda
