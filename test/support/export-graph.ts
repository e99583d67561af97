/**
 * GPT-2 as Hugging Face exports it for Transformers.js: `past_key_values.N.key` in, the whole past with the new keys as `present.N.key`
 * out. Logits come at every position.
 */

import { GraphBuilder } from "../../gpu-backend/runtime/graph.ts";
import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";
import { type TensorFile, tensorOf, toFloat32 } from "../../shared/artifacts/tensor-file.ts";

/** S sequences, T tokens, P past positions, D hidden, H heads, d head width, V vocabulary. */
export function buildExportGraph(config: ModelConfig, weights: TensorFile): Uint8Array {
  const { hiddenSize: D, vocabularySize: V, heads: H, layers } = config;
  const d = D / H;
  const g = new GraphBuilder("gpt2-export");
  const tensor = (name: string) => {
    const { shape } = tensorOf(weights, name);
    return g.constant(toFloat32(tensorOf(weights, name)), shape, name);
  };
  const tokenIds = g.input("input_ids", "int64", ["batch_size", "sequence_length"]);
  const attentionMask = g.input("attention_mask", "int64", ["batch_size", "total_sequence_length"]);
  const positions = g.input("position_ids", "int64", ["batch_size", "sequence_length"]);

  const headRows = tensor("wte.weight"); // [V, D], also the embedding
  const embedded = g.node("Gather", [headRows, tokenIds], { axis: 0 });
  const scoreMask = addScoreMask(g, tokenIds, attentionMask);
  const shape = g.node("Shape", [tokenIds]); // [S, T]
  const rowsAndHeads = g.node("Concat", [shape, g.integers(H, d)], { axis: 0 });
  const toHeads = (flat: string) =>
    g.node("Transpose", [g.node("Reshape", [flat, rowsAndHeads])], { perm: [0, 2, 1, 3] }); // [S, H, T, d]
  const layerNorm = (name: string, x: string) =>
    g.node("LayerNormalization", [x, tensor(`${name}.weight`), tensor(`${name}.bias`)], {
      axis: -1,
      epsilon: { float: config.normEpsilon },
    });
  const linear = (name: string, x: string) => g.node("Gemm", [x, tensor(`${name}.weight`), tensor(`${name}.bias`)]);

  const positionRows = g.node("Gather", [tensor("wpe.weight"), positions], { axis: 0 });
  let states = g.node("Reshape", [g.node("Add", [embedded, positionRows]), g.integers(-1, D)]); // [S × T, D]
  for (let l = 0; l < layers; l++) {
    const qkv = linear(`h.${l}.attn.c_attn`, layerNorm(`h.${l}.ln_1`, states));
    const [q, k, v] = g.nodes("Split", [qkv], 3, { axis: 1, num_outputs: 3 }).map(toHeads);
    const grown = (part: "key" | "value", added: string) => {
      const past = g.input(`past_key_values.${l}.${part}`, "float32", ["batch_size", H, "past_sequence_length", d]);
      const all = g.node("Concat", [past, added], { axis: 2 });
      g.output(`present.${l}.${part}`, all, "float32", ["batch_size", H, "total_sequence_length", d]);
      return all;
    };
    const keys = g.node("Transpose", [grown("key", k)], { perm: [0, 1, 3, 2] });
    const scores = g.node("Mul", [g.node("MatMul", [q, keys]), g.scalar(1 / Math.sqrt(d))]);
    const attention = g.node("Softmax", [g.node("Add", [scores, scoreMask])], { axis: -1 });
    const mixed = g.node("Transpose", [g.node("MatMul", [attention, grown("value", v)])], { perm: [0, 2, 1, 3] });
    states = g.node("Add", [states, linear(`h.${l}.attn.c_proj`, g.node("Reshape", [mixed, g.integers(-1, D)]))]);
    const inner = linear(`h.${l}.mlp.c_fc`, layerNorm(`h.${l}.ln_2`, states));
    states = g.node("Add", [states, linear(`h.${l}.mlp.c_proj`, g.node("com.microsoft:FastGelu", [inner]))]);
  }

  const hidden = layerNorm("ln_f", states);
  const logits = g.node("Gemm", [hidden, headRows], { transB: 1 });
  const rows = g.node("Concat", [shape, g.integers(V)], { axis: 0 });
  g.output("logits", g.node("Reshape", [logits, rows]), "float32", ["batch_size", "sequence_length", V]);
  return g.bytes();
}

/** [S, 1, T, P + T]: 0 where a query may look, the lowest float elsewhere. */
function addScoreMask(g: GraphBuilder, tokenIds: string, attentionMask: string): string {
  const lengthOf = (value: string) => g.node("Gather", [g.node("Shape", [value]), int64(g, 1)], { axis: 0 });
  const total = lengthOf(attentionMask);
  const past = g.node("Sub", [total, lengthOf(tokenIds)]);
  const keys = g.node("Range", [int64(g, 0), total, int64(g, 1)]);
  const queries = g.node("Unsqueeze", [g.node("Range", [past, total, int64(g, 1)]), g.integers(1)]);
  const isPast = g.node("LessOrEqual", [keys, queries]); // [T, P + T]
  const isToken = g.node("Unsqueeze", [g.node("Cast", [attentionMask], { to: 9 }), g.integers(1, 2)]); // [S, 1, 1, P + T]
  return g.node("Where", [g.node("And", [isPast, isToken]), g.scalar(0), g.scalar(-3.4028234663852886e38)]);
}

function int64(g: GraphBuilder, value: number): string {
  return g.constant(BigInt64Array.of(BigInt(value)), []);
}
