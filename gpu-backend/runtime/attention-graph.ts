/**
 * Attention over the past and the step's own tokens. Grouped-query attention (arXiv 2305.13245): H / K heads of queries share one head of
 * keys and values, and are multiplied with the shared keys in one product.
 * Shapes: S sequences, T tokens of the step, P positions of the past, G tokens of a prompt chunk that earlier steps have computed, L
 * layers, H heads of queries, K heads of keys and values, d head width.
 */
import type { GraphBuilder } from "./graph.ts";
import { names } from "./graph-names.ts";
import type { RotaryTables } from "./rotary.ts";
import { int8Greatest, int8Least, type KvFormat, type ModelShape } from "./step.ts";

export interface Target {
  g: GraphBuilder;
  config: ModelShape;
  kv: KvFormat;
  /** null for learned positions. Then the weights of the queries contain the factor 1/√d. */
  rotary: RotaryTables | null;
}

/** The past of rows with the same P. */
interface PastRows {
  mask: string; // [S, 1, 1, P]
  /** One [S, K, P, d] for each layer. */
  keys: string[];
  values: string[];
  /** Scales of int8 keys and values, [S, K, 1, P]; null for float32. */
  scales: { keys: string[]; values: string[] } | null;
}

export interface Past extends PastRows {
  /** The past of the step's last rows if `has` is true. The fields next to `long` are then for the rows before. */
  long: PastRows & { has: string };
  /** True if the step has one row with T ≥ 2 and `hasChunkOperator` is true. Masks and `begun` are then not read. */
  isChunk: string;
  /** Used if `isChunk`: valid positions of the past plus tokens of the step, int32. */
  positionCount: string;
  /** Keys, then values, of each layer for tokens of the chunk that earlier steps have computed: 2L × [S, K, G, d]. */
  begun: string[];
  /** `isDrafts`: the step has `drafts` (step.ts). `at` are the indexes at which the past gets each row's keys and values, [K, S, 3]. */
  drafts: { isDrafts: string; at: string };
}

/** Adds inputs for SS rows with P positions each, and for SL rows with PL positions each (`longPast` of step.ts). */
export function pastInputs(target: Target) {
  const { g, config } = target;
  const { kvHeads: K, headWidth: d } = config;
  return {
    ...rowInputs(target, names.past, "SS", "P"),
    begun: g.input(names.begun, "float32", ["2L*S", K, "G", d]),
    long: { ...rowInputs(target, names.long, "SL", "PL"), has: g.input(names.hasLong, "bool", []) },
    isChunk: g.input(names.isChunk, "bool", []),
    positionCount: g.input(names.positionCount, "int32", []),
    drafts: {
      isDrafts: g.input(names.isDrafts, "bool", []),
      at: g.node("Cast", [g.input(names.draftsAt, "int32", [K, "SD", 3])], { to: 7 }),
    },
  };
}

function rowInputs({ g, config, kv }: Target, named: typeof names.past, S: string, P: string): PastRows {
  const { kvHeads: K, headWidth: d, layers } = config;
  const isInt8 = kv === "int8";
  const inputs = (name: (layer: number) => string, type: "float32" | "int8", sizes: (string | number)[]) =>
    Array.from({ length: layers }, (_, l) => g.input(name(l), type, [S, K, ...sizes]));
  const stored = (name: (layer: number) => string) => inputs(name, isInt8 ? "int8" : "float32", [P, d]);
  const scales = (name: (layer: number) => string) => inputs(name, "float32", [1, P]);
  return {
    mask: g.input(named.mask, "float32", [S, 1, 1, P]),
    ...{ keys: stored(named.keys), values: stored(named.values) },
    scales: isInt8 ? { keys: scales(named.keyScales), values: scales(named.valueScales) } : null,
  };
}

/** Queries, keys and values [S × T, (H + 2K) · d] → the result [S × T, H · d], then the step's keys and values, each [S, K, T, d]. */
export type Attention = (layer: number, qkv: string) => string[];

export interface StepTokens {
  positions: string; // [S, T], int32
  rowCount: string; // S
  tokenCount: string; // T
}

export function addAttention(target: Target, past: Past | null, step: StepTokens): Attention {
  const { g, config } = target;
  const { heads: H, kvHeads: K, headWidth: d } = config;
  const { tokenCount } = step;
  const positions = target.rotary && g.node("Cast", [step.positions], { to: 7 });
  const mask = g.input(names.causalMask, "float32", [1, 1, "T", past ? "G+T" : "T"]);
  const causalMask = H === K ? mask : g.node("Tile", [mask, g.integers(1, 1, H / K, 1)]);
  const byHeads = addByHeads(target, step, positions);
  if (!past) {
    return byHeads((_, q, k, v) => {
      const scores = g.node("Add", [products(g, q, k), causalMask]);
      return g.node("MatMul", [g.node("Softmax", [scores], { axis: -1 }), v]);
    });
  }
  const { short, apart, drafted } = addPastAttention(target, past, causalMask);
  const { long, isChunk, positionCount, drafts } = past;
  const chunk = { positions, positionCount, tokenCount };
  const ofChunk = hasChunkOperator(config) ? addChunkAttention(target, past, chunk) : null;
  const isOther = g.node("Or", [g.node("Or", [isChunk, long.has]), drafts.isDrafts]);
  const own: (string | number)[] = ["S", K, "T", d];
  const outputs = [["S*T", H * d], own, own].map((shape) => ({ type: "float32" as const, shape }));
  return (l, qkv) => {
    const [ofLong, ofShort, ofDrafts] = [apart, short, drafted].map((attend) => () => byHeads(attend)(l, qkv));
    // Nested branches: decoding of rows with one P, the most frequent kind of step, enters only one.
    const plain = () => g.when(drafts.isDrafts, outputs, ofDrafts, ofLong);
    const other = () => (ofChunk ? g.when(isChunk, outputs, () => ofChunk(l, qkv), plain) : plain());
    return g.when(isOther, outputs, other, ofShort);
  };
}

/** `attend` gets queries, keys and values, [S, heads, T, d] each. */
function addByHeads(
  { g, config, rotary }: Target,
  { rowCount, tokenCount }: StepTokens,
  positions: string | null,
): (attend: HeadAttention) => Attention {
  const { heads: H, kvHeads: K, headWidth: d } = config;
  const byPosition = g.node("Concat", [rowCount, tokenCount, g.integers(H + 2 * K, d)], { axis: 0 });
  const byHead = g.node("Concat", [rowCount, g.integers(H), tokenCount, g.integers(d)], { axis: 0 });
  const partHeads = g.integers(H, K, K);
  return (attend) => (l, qkv) => {
    const heads = g.node("Transpose", [g.node("Reshape", [qkv, byPosition])], { perm: [0, 2, 1, 3] });
    let [q, k, v] = g.nodes("Split", [heads, partHeads], 3, { axis: 1 });
    if (rotary && positions) {
      q = g.node("com.microsoft:RotaryEmbedding", [q, positions, rotary.scaledCosines, rotary.scaledSines]);
      k = g.node("com.microsoft:RotaryEmbedding", [k, positions, rotary.cosines, rotary.sines]);
    }
    if (H === K) {
      const result = g.node("Transpose", [attend(l, q, k, v)], { perm: [0, 2, 1, 3] });
      return [g.node("Reshape", [result, g.integers(-1, H * d)]), k, v];
    }
    const grouped = attend(l, g.node("Reshape", [q, g.integers(0, K, -1, d)]), k, v);
    const result = g.node("Transpose", [g.node("Reshape", [grouped, byHead])], { perm: [0, 2, 1, 3] });
    return [g.node("Reshape", [result, g.integers(-1, H * d)]), k, v];
  };
}

/** Whether `GroupQueryAttention` takes heads of this width. If not, chunks are computed like other steps. */
export function hasChunkOperator({ headWidth }: ModelShape): boolean {
  return headWidth % 16 === 0;
}

/**
 * Attention of one prompt's chunk, T ≥ 2. ONNX Runtime's `GroupQueryAttention` sums over positions in order from 0, in parts that do not
 * depend on T. So a token gets the same bits however its chunk is divided into steps. The operator masks by itself. With a past, it takes
 * only one row and copies the past, so other steps do not use it.
 */
function addChunkAttention(
  { g, config, rotary }: Target,
  past: Past,
  { positions, positionCount, tokenCount }: { positions: string | null; positionCount: string; tokenCount: string },
): Attention {
  const { heads: H, kvHeads: K, headWidth: d } = config;
  const end = g.node("Cast", [g.node("Unsqueeze", [positionCount, g.integers(0)])], { to: 7 });
  const start = g.node("Sub", [end, tokenCount]);
  const last = g.node("Cast", [g.node("Sub", [end, g.integers(1)])], { to: 6 });
  const turning = rotary && positions ? [rotary.cosines, rotary.sines, positions] : [];
  const scale = { float: rotary ? 1 / Math.sqrt(d) : 1 };
  return (l, qkv) => {
    const packed = [g.node("Unsqueeze", [qkv, g.integers(0)]), "", ""];
    const [keys, values] = (["keys", "values"] as const).map((part) => {
      const stored = past[part][l];
      if (!past.scales) return stored;
      const scale = g.node("Transpose", [past.scales[part][l]], { perm: [0, 1, 3, 2] }); // [S, K, P, 1]
      return g.node("Mul", [g.node("Cast", [stored], { to: 1 }), scale]);
    });
    const inputs = [...packed, keys, values, last, positionCount, ...turning];
    const attributes = { num_heads: H, kv_num_heads: K, do_rotary: rotary ? 1 : 0, scale };
    // The result is wrong unless the other two outputs are named: all keys and all values, of the past and of the step.
    const [result, ...grown] = g.nodes("com.microsoft:GroupQueryAttention", inputs, 3, attributes);
    const [k, v] = grown.map((all) => g.node("Slice", [all, start, end, g.integers(2)]));
    return [g.node("Reshape", [result, g.integers(-1, H * d)]), k, v];
  };
}

/** Attention of a layer's queries, [S, K, H / K · T, d], with the step's own keys and values, [S, K, T, d]. */
type HeadAttention = (layer: number, q: string, k: string, v: string) => string;

/**
 * One sum runs over the whole chunk, so that the bits do not depend on how the chunk was divided into steps. `short` is for a step whose
 * rows have one P. `apart` attends to each P separately, which is cheaper than padding all rows to the larger P. `drafted` first writes
 * the rows' keys and values into their past, as later steps find them there, and each row's mask hides those that are not before it.
 */
function addPastAttention(target: Target, past: Past, causalMask: string) {
  const { g } = target;
  const queryCount = g.node("Shape", [causalMask], { start: 2, end: 3 }); // H / K · T
  const chunkCount = g.node("Shape", [causalMask], { start: 3, end: 4 }); // G + T
  /** `toOwn`: products of the queries with the chunk's keys, [S, K, H / K · T, G + T]. `toChunk` has the chunk's attention weights. */
  type PastAttention = (l: number, q: string, toOwn: string, stored?: StoredPair) => [ofPast: string, toChunk: string];
  const storedIn = ({ keys, values, scales }: PastRows, l: number): StoredPair => {
    const plain = (stored: string) => (scales ? g.node("Cast", [stored], { to: 1 }) : stored);
    return [
      { plain: plain(keys[l]), scale: scales?.keys[l] },
      { plain: plain(values[l]), scale: scales?.values[l] },
    ];
  };
  const among = (rows: PastRows) => {
    const { mask: pastMask } = rows;
    // Scales multiply scores and weights, because keys and values have far more elements.
    const scaled = (x: string, by: string | undefined) => (by ? g.node("Mul", [x, by]) : x);
    const count = g.node("Shape", [pastMask], { start: 0, end: 1 });
    const pastCount = g.node("Shape", [pastMask], { start: 3, end: 4 });
    const spread = (mask: string, columns: string) =>
      g.node("Expand", [mask, g.node("Concat", [count, g.integers(1), queryCount, columns], { axis: 0 })]);
    const mask = g.node("Concat", [spread(pastMask, pastCount), spread(causalMask, chunkCount)], { axis: -1 });
    const partLengths = g.node("Concat", [pastCount, chunkCount], { axis: 0 });
    const attend: PastAttention = (l, q, toOwn, [keys, values] = storedIn(rows, l)) => {
      const ofPast = scaled(products(g, q, keys.plain), keys.scale);
      const scores = g.node("Concat", [ofPast, toOwn], { axis: -1 });
      const weights = g.node("Softmax", [g.node("Add", [scores, mask])], { axis: -1 });
      const [toPast, toChunk] = g.nodes("Split", [weights, partLengths], 2, { axis: -1 });
      return [g.node("MatMul", [scaled(toPast, values.scale), values.plain]), toChunk];
    };
    return { count, attend };
  };
  const withChunk = (attend: PastAttention): HeadAttention => {
    return (l, q, k, v) => {
      const [keys, values] = [k, v].map((own, i) => g.node("Concat", [past.begun[2 * l + i], own], { axis: 2 }));
      const [ofPast, toChunk] = attend(l, q, products(g, q, keys));
      return g.node("Add", [ofPast, g.node("MatMul", [toChunk, values])]);
    };
  };
  const short = among(past);
  const long = among(past.long);
  const counts = g.node("Concat", [short.count, long.count], { axis: 0 });
  const apart = withChunk((l, q, toOwn) => {
    const [queries, own] = [q, toOwn].map((all) => g.nodes("Split", [all, counts], 2, { axis: 0 }));
    const [first, last] = [short, long].map(({ attend }, i) => attend(l, queries[i], own[i]));
    const [ofPast, toChunk] = [0, 1].map((i) => g.node("Concat", [first[i], last[i]], { axis: 0 }));
    return [ofPast, toChunk];
  });
  const drafted: HeadAttention = (l, q, k, v) => {
    const stored = storedIn(past, l).map((before, i) => addStored(target, before, [k, v][i], past.drafts.at));
    const [ofPast, toChunk] = short.attend(l, q, products(g, q, k), stored as StoredPair);
    return g.node("Add", [ofPast, g.node("MatMul", [toChunk, v])]);
  };
  return { short: withChunk(short.attend), apart, drafted };
}

/** Keys or values of a past as floats, [S, K, P, d], and their scales, [S, K, 1, P], if they are stored as int8. */
interface Stored {
  plain: string;
  scale: string | undefined;
}

type StoredPair = [keys: Stored, values: Stored];

/** Writes `own`, [S, K, 1, d], into one sequence's past at the indexes `at`, in the format of kv-format.ts. */
function addStored({ g, config }: Target, { plain, scale }: Stored, own: string, at: string): Stored {
  const transposed = g.node("Transpose", [own], { perm: [1, 0, 2, 3] });
  const byHead = g.node("Reshape", [transposed, g.integers(0, 0, config.headWidth)]); // [K, S, d]
  if (!scale) return { plain: g.node("ScatterND", [plain, at, byHead]), scale };
  const most = g.node("ReduceMax", [g.node("Abs", [byHead]), g.integers(2)], { keepdims: 1 });
  const inverse = g.node("Div", [g.scalar(int8Greatest), g.node("Max", [most, g.scalar(int8Least)])]);
  const rounded = g.node("Round", [g.node("Mul", [byHead, inverse])]);
  const ownScale = g.node("Squeeze", [g.node("Div", [most, g.scalar(int8Greatest)]), g.integers(2)]);
  const scales = g.node("ScatterND", [g.node("Squeeze", [scale, g.integers(2)]), at, ownScale]);
  return {
    plain: g.node("ScatterND", [plain, at, rounded]),
    scale: g.node("Unsqueeze", [scales, g.integers(2)]),
  };
}

function products(g: GraphBuilder, q: string, k: string): string {
  return g.node("com.microsoft:FusedMatMul", [q, k], { transB: 1 });
}
