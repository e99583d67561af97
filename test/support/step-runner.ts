import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";
import { buildServingGraph } from "../../gpu-backend/runtime/model-graph.ts";
import type { ModelWeights } from "../../gpu-backend/runtime/model-weights.ts";
import { openStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import type { WeightFormat } from "../../gpu-backend/runtime/products.ts";
import type { Bank, KvFormat, StepRunner } from "../../gpu-backend/runtime/step.ts";

export function createStepRunner(options: {
  config: ModelConfig;
  weights: ModelWeights;
  bank: Bank;
  threads: number;
  format?: WeightFormat;
  kv?: KvFormat;
}): Promise<StepRunner> {
  const { config, weights, bank, format = "fp32", kv } = options;
  return openStepRunner(buildServingGraph(config, weights, bank, { format, kv }), options);
}
