/**
 * Interface of the runners of the model: host-runner.ts in the host's memory, device-runner.ts on a device.
 * Shapes: S rows of a pass, M positions that the head is computed at, D hidden.
 */
import type { HeadInput, ModelShape, RowOutput } from "../runtime/step.ts";

/** Handle of one sequence's keys, values and states, valid until `close`. */
export interface Kv {
  /** Number of positions that hold keys and values. */
  readonly positions: number;
}

/** A read-only copy of some positions of a row. Other rows whose tokens begin alike reuse the copy. */
export interface KvBlock {
  readonly positions: number;
  readonly bytes: number;
  free(): void;
}

export interface KvPosition {
  kv: Kv;
  position: number;
}

export interface KvStore {
  readonly capacityBytes: number;
  /** Bytes allocated for all rows, including parked rows. */
  readonly bytes: number;
  /** Bytes of the positions that hold keys and values. */
  readonly usedBytes: number;
  /** Whether computing a prefill chunk in two passes gives the same result as computing it at once. */
  readonly continuesChunks: boolean;
  /** Whether memory suffices for running rows of the given `lengths` and parked rows of the lengths `parked`. Pure. */
  holds(lengths: readonly number[], parked: readonly number[]): boolean;
  /** Opens an empty row with room for `wanted` positions. */
  open(wanted: number): Kv;
  close(row: Kv): void;
  /** Frees a row's slot for another row, but keeps the row's positions. `place` assigns a slot again. */
  park(row: Kv): void;
  /** Assigns a slot to every row of the next step, after which it has `positions` positions. `holds` must be true for these lengths. */
  place(rows: readonly { kv: Kv; positions: number }[]): void;
  copy(row: Kv, from: number, to: number): KvBlock;
  write(row: Kv, block: KvBlock, positions: number): void;
  /** Returns the state [D] of each position, valid until the next pass. A state is the input of the last feed-forward part. */
  states(positions: readonly KvPosition[]): Promise<Float32Array[]>;
  /** Frees memory that is not needed soon. Call this method between two steps. */
  trim(): void;
}

export interface Runner {
  readonly config: ModelShape;
  readonly gates: number; // Q
  readonly kv: KvStore;
  run(pass: Pass): Promise<PassOutput>;
  release(): Promise<void>;
}

/** One pass of the trunk and the head, or of the head alone if there are no rows. */
export interface Pass {
  /** A prefill has one row. A decode has one token for each row. */
  phase: "prefill" | "decode";
  /** S rows with their next tokens. */
  rows: readonly { kv: Kv; tokens: readonly number[] }[];
  /** The M positions that the head is computed at: positions of this pass first, then positions of earlier passes. */
  states: readonly KvPosition[];
  head: HeadInput;
}

export interface PassOutput extends RowOutput {
  /** Hidden states after the last layer norm, [M, D]; null unless `head.want.hidden`. */
  hidden: Float32Array | null;
  /** 1 for each row whose new keys and values are finite, else 0, [S]. The pass's tokens are not added to a row with 0. */
  finite: Uint8Array;
}
