// What a call's results have to be, said a second time and row by row in long double.
#pragma once

#include "call.h"

// Aborts unless `result` is what the call promises.
void check_result(const Call& call, const at::Tensor& result);
// The same for the gradients of `result`, along the call's upstream one.
void check_gradients(const Call& call, const at::Tensor& result);
