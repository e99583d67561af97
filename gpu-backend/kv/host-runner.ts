/**
 * Shapes: S rows of a pass, T tokens (right-padded), M positions that the head is computed at, L layers, H heads of keys and values, d
 * head width, D hidden.
 */
import { joinArrays } from "../../shared/bytes.ts";
import { type ModelShape, minPrefillTokens, noTokens, type StepRunner } from "../runtime/step.ts";
import type { KvRow } from "./arena.ts";
import { HostKv } from "./host-kv.ts";
import { storedAs } from "./kv-format.ts";
import type { Pass, PassOutput, Runner } from "./runner.ts";

interface HostLimits {
  maxSequences: number;
  /** Tokens of a prefill chunk. Chunks begin at multiples of this number. */
  chunkTokens: number;
  /** Maximum bytes of running and parked rows. */
  kvBytes: number;
}

export class HostRunner implements Runner {
  readonly config: ModelShape;
  readonly gates: number; // Q
  readonly kv: HostKv;
  readonly draftCost: number;
  readonly #steps: StepRunner;
  readonly #chunkTokens: number;

  constructor(steps: StepRunner, { maxSequences, chunkTokens, kvBytes }: HostLimits) {
    this.config = steps.config;
    this.gates = steps.gates;
    this.draftCost = steps.draftCost ?? Number.POSITIVE_INFINITY;
    this.kv = new HostKv(steps, { maximumRows: maxSequences, maximumBytes: kvBytes });
    this.#steps = steps;
    this.#chunkTokens = chunkTokens;
  }

  async run({ phase, rows, states, head }: Pass): Promise<PassOutput> {
    const tokensOf = new Map(rows.map(({ kv, tokens }) => [kv as KvRow, tokens]));
    const order = this.kv.inOrder([...tokensOf.keys()], phase);
    const counts = order.map((row) => tokensOf.get(row)!.length);
    const drafts = phase === "decode" && counts[0] > 1;
    const longest = Math.max(1, ...counts);
    const [S, T] = drafts
      ? [longest, 1]
      : [order.length, phase === "prefill" ? minPrefillTokens * Math.ceil(longest / minPrefillTokens) : longest];
    const [tokenIds, positions] = [new Int32Array(S * T), new Int32Array(S * T)];
    order.forEach((row, s) => {
      tokensOf.get(row)!.forEach((id, t) => {
        tokenIds[s * T + t] = id;
        positions[s * T + t] = row.positions + t;
      });
    });
    const isNew = ({ kv, position }: Pass["states"][number]) => position >= kv.positions;
    const headRows = states
      .filter(isNew)
      .map(({ kv, position }) => order.indexOf(kv as KvRow) * T + position - kv.positions);
    const earlier = states.slice(headRows.length).map(({ kv, position }) => this.kv.state(kv as KvRow, position));
    // Number of tokens of this chunk that earlier passes have computed.
    const begunTokens = phase === "prefill" && S > 0 ? order[0].positions % this.#chunkTokens : 0;
    const past = S === 0 ? null : drafts ? this.kv.feedDrafts(order[0], S) : this.kv.feed(order);
    const {
      present,
      states: fresh,
      ...output
    } = await this.#steps.run({
      ...head,
      ...(past ? { sequences: S, tokens: T, tokenIds, positions, begunTokens, drafts, ...past } : noTokens()),
      ...{ headRows: Int32Array.from(headRows), fedStates: joinArrays(Float32Array, earlier) },
    });
    const { hiddenSize: D } = this.config;
    const areFinite = (s: number, count: number) => isFiniteRow(fresh.subarray(s * T * D, (s * T + count) * D));
    const bad = drafts ? tokenIds.findIndex((_, s) => !areFinite(s, 1)) : -1;
    const kept = drafts ? [bad < 0 ? S : bad] : counts.map((count, s) => (areFinite(s, count) ? count : 0));
    const stored = () => [...storedAs(this.#steps.kvFormat, present, this.config), fresh];
    if (drafts) this.kv.appendDrafts(order[0], kept[0], stored());
    else if (S > 0) this.kv.append(order, kept, stored(), T);
    const needed = drafts ? 1 + (headRows[0] ?? S - 1) : 1;
    const finite = rows.map(({ kv }) => Number(kept[order.indexOf(kv as KvRow)] >= needed));
    return { ...output, finite: Uint8Array.from(finite) };
  }

  release(): Promise<void> {
    return this.#steps.release();
  }
}

/** Tests the states, because infinite or NaN keys or values would have spread to the states. */
function isFiniteRow(states: Float32Array): boolean {
  // x − x is 0 for a finite x and NaN otherwise, so one sum tests all values without branches.
  return states.reduce((sum, x) => sum + (x - x), 0) === 0;
}
