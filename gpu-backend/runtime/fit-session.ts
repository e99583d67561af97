/**
 * The head is an input of the graphs, so that its fp32 rows are in memory once.
 * Shapes: N positions, D hidden size, V vocabulary, C candidates, R rank, K likeliest tokens.
 */
import { GraphBuilder } from "./graph.ts";
import { addBank } from "./head-graph.ts";
import { openSession, type Session, type SessionResults, tensor } from "./session.ts";
import type { Bank } from "./step.ts";

/** An own adapter: h' = h + Bᵀ·(A·h) + c on top of the static adapter, where h is the hidden state without any adapter. */
export interface Delta {
  a: Float32Array; // [R, D]
  b: Float32Array; // [R, D]
  c: Float32Array; // [D]
}

interface FitStepInput extends Delta {
  hidden: Float32Array; // [N, D]
  logits: Float32Array; // of the candidates without the own adapter, [N, C]
  /** Index of each target among the candidates, [N]. */
  targets: Int32Array;
  rows: Float32Array; // of the head, [C, D]
}

export type FitSession = Awaited<ReturnType<typeof openFitSession>>;

/** Positions of one run, whose logits take 26 MB at a vocabulary of 50,257. */
const runPositions = 128;
const likeliest = 16;

export async function openFitSession(
  embedding: Float32Array, // [V, D]
  hiddenSize: number,
  { bank, gates }: { bank: Bank; gates: Float32Array | null },
  threads: number,
) {
  const D = hiddenSize;
  const V = embedding.length / D;
  const K = Math.min(likeliest, V);
  const survey = await openSession(buildSurveyGraph(D, V, K, bank, gates), { threads });
  const products = await openSession(buildProductGraph(D), { threads });
  const step = await openSession(buildStepGraph(D), { threads });
  const head = tensor(embedding, [V, D]);
  return {
    hiddenSize,
    embedding,
    /**
     * `change` is [N, D] or null. Returns `adapted` [N, D], `logprobs` of the targets and `logSumExp`, both [N], `topIds` of the
     * likeliest tokens, [N, K], and `expected` [V], the probability of each token summed over the positions.
     */
    async survey(hidden: Float32Array, change: Float32Array | null, targets: Int32Array) {
      const N = targets.length;
      const result = {
        ...{ adapted: new Float32Array(N * D), logprobs: new Float32Array(N), logSumExp: new Float32Array(N) },
        ...{ topIds: new Int32Array(N * K), expected: new Float64Array(V) },
      };
      for (let at = 0; at < N; at += runPositions) {
        const rows = Math.min(runPositions, N - at);
        const part = (states: Float32Array) => tensor(states.subarray(at * D, (at + rows) * D), [rows, D]);
        const outputs = await survey.run({
          hidden: part(hidden),
          change: change ? part(change) : tensor(new Float32Array(D), [1, D]),
          targets: tensor(targets.subarray(at, at + rows), [rows, 1]),
          head,
        });
        result.adapted.set(floatsOf(outputs, "adapted"), at * D);
        result.logprobs.set(floatsOf(outputs, "logprobs"), at);
        result.logSumExp.set(floatsOf(outputs, "sums"), at);
        result.topIds.set(outputs.top.data as Int32Array, at * K);
        floatsOf(outputs, "expected").forEach((mass, id) => {
          result.expected[id] += mass;
        });
      }
      return result;
    },
    /** Returns [N, C] for C rows of the head. */
    async logits(states: Float32Array, rows: Float32Array) {
      const feeds = { states: tensor(states, [states.length / D, D]), rows: tensor(rows, [rows.length / D, D]) };
      return floatsOf(await products.run(feeds), "logits");
    },
    step: (input: FitStepInput) => runStep(step, input, D),
    async release() {
      await survey.release();
      await products.release();
      await step.release();
    },
  };
}

/** Returns −log p of each target [N], and the gradients of their mean. */
async function runStep(session: Session, { hidden, logits, targets, rows, a, b, c }: FitStepInput, D: number) {
  const [N, C, R] = [targets.length, rows.length / D, a.length / D];
  const outputs = await session.run({
    hidden: tensor(hidden, [N, D]),
    logits: tensor(logits, [N, C]),
    targets: tensor(targets, [N, 1]),
    rows: tensor(rows, [C, D]),
    ...{ a: tensor(a, [R, D]), b: tensor(b, [R, D]), c: tensor(c, [1, D]) },
    weight: tensor(Float32Array.of(1 / N), []),
  });
  const [nll, dA, dB, dC] = ["nll", "d_a", "d_b", "d_c"].map((name) => floatsOf(outputs, name));
  return { nll, gradients: { a: dA, b: dB, c: dC } };
}

function floatsOf(outputs: SessionResults, name: string): Float32Array {
  return outputs[name].data as Float32Array;
}

/** Inputs: hidden [N, D], change [N or 1, D], targets [N, 1], head [V, D]. Outputs: the results of `survey` for N positions. */
function buildSurveyGraph(D: number, V: number, K: number, bank: Bank, gates: Float32Array | null): Uint8Array {
  const g = new GraphBuilder("survey");
  const hidden = g.input("hidden", "float32", ["N", D]);
  const change = g.input("change", "float32", ["M", D]);
  const targets = g.input("targets", "int32", ["N", 1]);
  const head = g.input("head", "float32", [V, D]);
  const fixed = gates ? addBank(g, { hiddenSize: D }, bank)(hidden, g.constant(gates, [1, gates.length])) : hidden;
  const adapted = g.node("Add", [fixed, change]);
  const logits = g.node("Gemm", [adapted, head], { transB: 1 });
  // LogSoftmax, because ReduceLogSumExp takes several times as long over a large vocabulary.
  const logprobs = g.node("LogSoftmax", [logits], { axis: 1 });
  const flat = (x: string) => g.node("Squeeze", [x, g.integers(1)]);
  const [scores, top] = g.nodes("TopK", [logits, g.integers(K)], 2, { axis: 1 });
  const first = [g.integers(0), g.integers(1), g.integers(1)];
  const best = g.node("Slice", [top, ...first]);
  const sums = g.node("Sub", [
    g.node("Slice", [scores, ...first]),
    g.node("GatherElements", [logprobs, best], { axis: 1 }),
  ]);
  g.output("adapted", adapted, "float32", ["N", D]);
  g.output("logprobs", flat(g.node("GatherElements", [logprobs, targets], { axis: 1 })), "float32", ["N"]);
  g.output("sums", flat(sums), "float32", ["N"]);
  g.output("top", g.node("Cast", [top], { to: 6 }), "int32", ["N", K]);
  const expected = g.node("ReduceSum", [g.node("Exp", [logprobs]), g.integers(0)], { keepdims: 0 });
  g.output("expected", expected, "float32", [V]);
  return g.bytes();
}

function buildProductGraph(D: number): Uint8Array {
  const g = new GraphBuilder("candidates");
  const states = g.input("states", "float32", ["N", D]);
  const rows = g.input("rows", "float32", ["C", D]);
  g.output("logits", g.node("Gemm", [states, rows], { transB: 1 }), "float32", ["N", "C"]);
  return g.bytes();
}

/**
 * Gradients, with W the candidates' rows of the head, u = A·h, m = W·Bᵀ [C, R], z = logits + u·mᵀ + W·c, without N·C·D multiplications:
 *   dz = (softmax(z) − onehot(target)) / N,  dm = dzᵀ·u,  dB = dmᵀ·W,  dc = (Σ dz)·W,  du = dz·m,  dA = duᵀ·h
 */
function buildStepGraph(D: number): Uint8Array {
  const g = new GraphBuilder("fit-step");
  const hidden = g.input("hidden", "float32", ["N", D]);
  const logits = g.input("logits", "float32", ["N", "C"]);
  const targets = g.input("targets", "int32", ["N", 1]);
  const rows = g.input("rows", "float32", ["C", D]);
  const [a, b] = ["a", "b"].map((name) => g.input(name, "float32", ["R", D]));
  const c = g.input("c", "float32", [1, D]);
  const weight = g.input("weight", "float32", []);
  const u = g.node("Gemm", [hidden, a], { transB: 1 }); // [N, R]
  const m = g.node("Gemm", [rows, b], { transB: 1 }); // [C, R]
  const shifted = g.node("Add", [logits, g.node("Gemm", [c, rows], { transB: 1 })]);
  const logprobs = g.node("LogSoftmax", [g.node("Gemm", [u, m, shifted], { transB: 1 })], { axis: 1 });
  const ofTarget = g.node("GatherElements", [logprobs, targets], { axis: 1 }); // [N, 1]
  g.output("nll", g.node("Squeeze", [g.node("Neg", [ofTarget]), g.integers(1)]), "float32", ["N"]);
  const less = g.node("Sub", [g.node("Exp", [ofTarget]), g.scalar(1)]);
  const error = g.node("ScatterElements", [g.node("Exp", [logprobs]), targets, less], { axis: 1 });
  const dZ = g.node("Mul", [error, weight]); // [N, C]
  const dM = g.node("Gemm", [dZ, u], { transA: 1 });
  const dU = g.node("MatMul", [dZ, m]);
  g.output("d_a", g.node("Gemm", [dU, hidden], { transA: 1 }), "float32", ["R", D]);
  g.output("d_b", g.node("Gemm", [dM, rows], { transA: 1 }), "float32", ["R", D]);
  const sums = g.node("ReduceSum", [dZ, g.integers(0)], { keepdims: 1 }); // [1, C]
  g.output("d_c", g.node("MatMul", [sums, rows]), "float32", [1, D]);
  return g.bytes();
}
