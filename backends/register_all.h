// Makes every backend of this build known. Programs and tests call it once at the start.
#pragma once

namespace norma {

void register_backends();

}  // namespace norma
