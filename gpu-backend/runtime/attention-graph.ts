/**
 * Attention in the GPT-2 graphs: the inputs of the past, and the operators over it and over the step's own chunk.
 * Shapes: S sequences, T tokens, P positions of the past, G tokens of a chunk that has begun, L layers, D hidden, H heads, d head width.
 */
import type { GraphBuilder } from "./graph.ts";
import { names } from "./graph-names.ts";
import type { Device } from "./session.ts";
import type { Gpt2Config } from "./step.ts";

interface Target {
  g: GraphBuilder;
  config: Gpt2Config;
  device: Device;
}

/** The past of rows with the same P. */
interface PastRows {
  mask: string; // [S, 1, 1, P]
  /** Of each layer, [S, H, P, d]. */
  keys: string[];
  values: string[];
}

export interface Past extends PastRows {
  /** The past of the step's last rows, read if `has` is true; then the fields above are of the other rows. null: all rows have one P. */
  long: (PastRows & { has: string }) | null;
  /** What is there already of the step's chunk: keys, then values, of each layer, 2L × [S, H, G, d]. */
  begun: string[];
}

/** Inputs of the past as the host feeds it: the rows of the step, SS with P positions and SL with PL. */
export function pastInputs(target: Target) {
  const { g, config } = target;
  const longNames: RowNames = { mask: names.longMask, key: names.longKey, value: names.longValue };
  const long = { ...rowInputs(target, longNames, "SL", "PL"), has: g.input(names.hasLong, "bool", []) };
  return { ...rowInputs(target, shortNames, "SS", "P"), long, begun: begunInput(g, config) };
}

/** The same, with `begun` split into the keys and the values of each layer. */
export function splitPast({ g, config }: Target, past: Omit<Past, "begun"> & { begun: string }): Past {
  const parts = 2 * config.layers;
  return { ...past, begun: g.nodes("Split", [past.begun], parts, { axis: 0, num_outputs: parts }) };
}

/** The past as webgpu-past.ts keeps it: all rows come in, some are read, all go out again by `write`. */
export function addPastOnDevice(target: Target): Past & { write(fresh: string[]): void } {
  const { g, config } = target;
  const { hiddenSize: D, heads: H } = config;
  const all = rowInputs(target, shortNames, "S", "P", "R");
  const rows = g.input(names.pastRows, "int32", ["S"]);
  const read = (one: string) => g.node("Gather", [one, rows], { axis: 0 });
  const past = { ...all, keys: all.keys.map(read), values: all.values.map(read), long: null };
  const write = (fresh: string[]) => {
    const at = g.node("Cast", [g.input(names.writeAt, "int32", ["S", H, "T", 3])], { to: 7 });
    fresh.forEach((x, i) => {
      const old = i % 2 ? all.values[i >> 1] : all.keys[i >> 1];
      g.output(names.grown(i), g.node("ScatterND", [old, at, x]), "float32", ["R", H, "P", D / H]);
    });
  };
  return { ...splitPast(target, { ...past, begun: begunInput(g, config) }), write };
}

interface RowNames {
  mask: string;
  key(layer: number): string;
  value(layer: number): string;
}

const shortNames: RowNames = { mask: names.pastMask, key: names.pastKey, value: names.pastValue };

function rowInputs({ g, config }: Target, named: RowNames, S: string, P: string, rows = S): PastRows {
  const { hiddenSize: D, heads: H, layers } = config;
  const inputs = (name: (layer: number) => string) =>
    Array.from({ length: layers }, (_, l) => g.input(name(l), "float32", [rows, H, P, D / H]));
  const mask = g.input(named.mask, "float32", [S, 1, 1, P]);
  return { mask, keys: inputs(named.key), values: inputs(named.value) };
}

function begunInput(g: GraphBuilder, { hiddenSize: D, heads: H }: Gpt2Config): string {
  return g.input(names.begun, "float32", ["2L*S", H, "G", D / H]);
}

/** Attention of queries [S, H, T, d] of a layer with the step's own keys and values, [S, H, T, d]. */
type Attention = (layer: number, q: string, k: string, v: string) => string;

/**
 * Attention over the past, if there is one, and over the chunk: what has begun of it, then the step's own keys and values. The chunk
 * is summed at once, so that it gives the same bits wherever a step goes on with it.
 */
export function addAttention(target: Target, past: Past | null, tokenCount: string): Attention {
  const { g } = target;
  const causalMask = g.input(names.causalMask, "float32", [1, 1, "T", past ? "G+T" : "T"]);
  if (!past) {
    return (_, q, k, v) => {
      const scores = g.node("Add", [products(target, q, k), causalMask]);
      return g.node("MatMul", [g.node("Softmax", [scores], { axis: -1 }), v]);
    };
  }
  const attend = addPastAttention(target, past, causalMask, tokenCount);
  return (l, q, k, v) => {
    const [keys, values] = [k, v].map((own, i) => g.node("Concat", [past.begun[2 * l + i], own], { axis: 2 }));
    const [ofPast, toChunk] = attend(l, q, products(target, q, keys));
    return g.node("Add", [ofPast, g.node("MatMul", [toChunk, values])]);
  };
}

/**
 * The part of attention whose shapes depend on P. Of a layer's queries and their products with the chunk's keys, [S, H, T, G + T],
 * it makes the past's part of the result, [S, H, T, d], and the weights of the chunk, [S, H, T, G + T]. Where `past.long` has rows,
 * queries are split, attention over each P is computed by itself, and results are joined: to pad all rows to one P costs more.
 */
function addPastAttention(target: Target, past: Past, causalMask: string, tokenCount: string) {
  const { g, config } = target;
  const { hiddenSize: D, heads: H } = config;
  const chunkCount = g.node("Shape", [causalMask], { start: 3, end: 4 }); // G + T
  /** Attention of the rows of one P. */
  const among = ({ mask: pastMask, keys, values }: PastRows) => {
    const count = g.node("Shape", [pastMask], { start: 0, end: 1 });
    const pastCount = g.node("Shape", [pastMask], { start: 3, end: 4 });
    const spread = (mask: string, columns: string) =>
      g.node("Expand", [mask, g.node("Concat", [count, g.integers(1), tokenCount, columns], { axis: 0 })]);
    const mask = g.node("Concat", [spread(pastMask, pastCount), spread(causalMask, chunkCount)], { axis: -1 });
    const partLengths = g.node("Concat", [pastCount, chunkCount], { axis: 0 });
    const attend = (l: number, q: string, toOwn: string): [ofPast: string, toChunk: string] => {
      const scores = g.node("Concat", [products(target, q, keys[l]), toOwn], { axis: -1 });
      const weights = g.node("Softmax", [g.node("Add", [scores, mask])], { axis: -1 });
      const [toPast, toChunk] = g.nodes("Split", [weights, partLengths], 2, { axis: -1 });
      return [g.node("MatMul", [toPast, values[l]]), toChunk];
    };
    return { count, attend };
  };
  const short = among(past);
  if (!past.long) return short.attend;
  const { has } = past.long;
  const long = among(past.long);
  const counts = g.node("Concat", [short.count, long.count], { axis: 0 });
  const outputs = [D / H, "G+T"].map((width) => ({ type: "float32" as const, shape: ["S", H, "T", width] }));
  return (l: number, q: string, toOwn: string): string[] => {
    const apart = () => {
      const [queries, own] = [q, toOwn].map((all) => g.nodes("Split", [all, counts], 2, { axis: 0 }));
      const [first, last] = [short, long].map(({ attend }, i) => attend(l, queries[i], own[i]));
      return [0, 1].map((i) => g.node("Concat", [first[i], last[i]], { axis: 0 }));
    };
    return g.when(has, outputs, apart, () => short.attend(l, q, toOwn));
  };
}

/** Q·Kᵀ. Only the CPU has the fused kernel; elsewhere it would pull the keys back to the CPU. */
export function products({ g, device }: Pick<Target, "g" | "device">, q: string, k: string): string {
  if (device === "cpu") return g.node("com.microsoft:FusedMatMul", [q, k], { transB: 1 });
  return g.node("MatMul", [q, g.node("Transpose", [k], { perm: [0, 1, 3, 2] })]);
}
