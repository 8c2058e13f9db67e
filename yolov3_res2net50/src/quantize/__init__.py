"""Static int8 quantization of an exported model: calibration, quantization, comparison of before and after."""
