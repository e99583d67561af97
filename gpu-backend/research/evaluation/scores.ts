/** Scores texts under the base, the static adapter, the nearest centroid's adapter, and the mixture. */
import { positionsOfEvidence } from "../../../shared/math/evidence.ts";
import type { ServedBank } from "../../training/bank/served-bank.ts";
import { type Method, methods } from "./data.ts";
import type { OpenArtifacts } from "./open-artifacts.ts";
import { expertsOf, mixedGates } from "./plans.ts";
import type { Reader } from "./reader.ts";
import { scoredTokens, type Text, withPrompt } from "./texts.ts";

/** Log-likelihood of each scored token, in nats, [texts][scoredTokens], by method. */
export type Scores = Record<Method, Float32Array[]>;

/** Texts of one pass of the trunk. */
const textsPerPass = 8;

/** Scores the texts after prompts of so many tokens. */
export async function scoresOf(
  { trunk, reader, served }: Pick<OpenArtifacts, "trunk" | "reader" | "served">,
  texts: readonly Text[],
  promptTokens: number,
): Promise<Scores> {
  const scores: Scores = { base: [], static: [], nearest: [], mixture: [] };
  const T = promptTokens + scoredTokens;
  const positions = Array.from({ length: scoredTokens }, (_, i) => promptTokens - 1 + i);
  for (let from = 0; from < texts.length; from += textsPerPass) {
    const pass = texts.slice(from, from + textsPerPass).map((text) => withPrompt(text, promptTokens));
    const hidden = await trunk.hidden(Int32Array.from(pass.flat()), pass.length, T); // [S, T, D]
    const size = hidden.length / pass.length;
    for (const [s, ids] of pass.entries()) {
      const own = hidden.subarray(s * size, (s + 1) * size);
      const gates = await gatesOf(reader, served, ids, own, promptTokens);
      const scored = await logprobsUnder(
        methods.map((method) => gates[method]),
        reader,
        ids,
        own,
        positions,
      );
      for (const [m, method] of methods.entries()) scores[method].push(scored[m]);
    }
  }
  return scores;
}

/** The gates of each method, [Q], as the prompt of a text weighs them. `hidden` [T, D]. */
export async function gatesOf(
  reader: Pick<Reader, "read">,
  served: ServedBank,
  ids: readonly number[],
  hidden: Float32Array,
  promptTokens: number,
): Promise<Record<Method, Float32Array>> {
  const { staticGates } = served.adapters.network;
  const experts = expertsOf(ids.slice(0, promptTokens), served);
  const evidence = positionsOfEvidence(promptTokens);
  const logprobs = await logprobsUnder(experts.gates, reader, ids, hidden, evidence);
  return {
    base: new Float32Array(staticGates.length),
    static: staticGates,
    nearest: experts.nearest,
    mixture: mixedGates(
      experts,
      evidence.map((_, n) => logprobs.map((own) => own[n])),
    ),
  };
}

/** Log-likelihoods of the tokens after some positions of a text, [gates][positions]. `hidden` [T, D]. */
async function logprobsUnder(
  gates: readonly Float32Array[],
  reader: Pick<Reader, "read">,
  ids: readonly number[],
  hidden: Float32Array,
  positions: readonly number[],
): Promise<Float32Array[]> {
  const D = hidden.length / ids.length;
  const [N, Q] = [positions.length, gates[0].length];
  const states = new Float32Array(gates.length * N * D);
  const ofRows = new Float32Array(gates.length * N * Q);
  for (let row = 0; row < gates.length * N; row++) {
    const t = positions[row % N];
    states.set(hidden.subarray(t * D, (t + 1) * D), row * D);
    ofRows.set(gates[Math.floor(row / N)], row * Q);
  }
  const targets = Int32Array.from({ length: gates.length * N }, (_, row) => ids[positions[row % N] + 1]);
  const { logprobs } = await reader.read(states, ofRows, targets);
  return gates.map((_, e) => logprobs.slice(e * N, (e + 1) * N));
}
