/** A runner computes passes of the model. Shapes: S rows of a pass, M positions that the head is computed at, D hidden. */
import type { HeadInput, ModelShape, RowOutput } from "../runtime/step.ts";

/** Keys, values and states of one sequence, valid until `close`. */
export interface Kv {
  readonly positions: number;
}

/** Copied positions. Other rows whose tokens begin alike reuse the block. */
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
  /** Bytes of running and parked rows. */
  readonly bytes: number;
  /** Bytes of positions that hold keys and values. */
  readonly usedBytes: number;
  /** Whether a prefill chunk computed in two passes has the same bits as one computed at once. */
  readonly continuesChunks: boolean;
  /** Whether memory suffices for running rows of the lengths `lengths` and parked rows of the lengths `parked`. Pure. */
  holds(lengths: readonly number[], parked: readonly number[]): boolean;
  /** Opens a row with room for `wanted` positions. */
  open(wanted: number): Kv;
  close(row: Kv): void;
  /** Drops the row's positions from `positions` on. */
  cut(row: Kv, positions: number): void;
  /** Frees the row's slot, but keeps the row's positions. */
  park(row: Kv): void;
  /** Assigns a slot to every row of the next step. `positions` is the row's length after the step. `holds` must be true. */
  place(rows: readonly { kv: Kv; positions: number }[]): void;
  copy(row: Kv, from: number, to: number): KvBlock;
  write(row: Kv, block: KvBlock, positions: number): void;
  /** Returns [D] for each position, valid until the next pass. A state is the input of the last feed-forward part. */
  states(positions: readonly KvPosition[]): Promise<Float32Array[]>;
  /** Frees memory that is not needed soon. Call between two steps. */
  trim(): void;
}

export interface Runner {
  readonly config: ModelShape;
  readonly gates: number; // Q
  readonly kv: KvStore;
  /**
   * Cost of a further token in a decode of one row, as a share of a pass's. Infinity if tokens of one pass have other bits than in passes
   * of their own.
   */
  readonly draftCost: number;
  /** The previous pass must have ended. */
  run(pass: Pass): Promise<PassOutput>;
  release(): Promise<void>;
}

/** A pass without rows runs only the head. */
export interface Pass {
  /** A prefill has one row. A decode has one token for each row, or several tokens of one row (`draftCost`). */
  phase: "prefill" | "decode";
  rows: readonly { kv: Kv; tokens: readonly number[] }[];
  /** M positions that the head is computed at: positions of this pass first, then positions of earlier passes. */
  states: readonly KvPosition[];
  head: HeadInput;
}

export interface PassOutput extends RowOutput {
  /** States after the last layer norm, [M, D]; null unless `head.want.hidden`. */
  hidden: Float32Array | null;
  /**
   * 0 for each row whose new keys and values are not finite, [S]. Such a row does not keep the pass's tokens. A decoded row with several
   * tokens keeps those before the first that is not finite, and gets 0 if the head's first position is not among them.
   */
  finite: Uint8Array;
}
