/** One request's trace: what is known of it on the way, and how it travels on. Not here: where it begins and ends. */
import type { Attributes, Span } from "../../shared/observability/otlp.ts";
import { formatTraceparent, type TraceContext } from "../../shared/observability/trace-context.ts";
import type { Dispatch } from "../backend/dispatch.ts";

export interface TraceDependencies {
  newId(): string;
  now(): number;
  /** Share of the traces that begin here and are reported; a caller's own decision goes first. 0 reports none. */
  sampleRatio: number;
  /** Takes the request's span; must not throw. */
  ended(span: Span): void;
  logRequest(fields: Attributes): void;
}

/** Where a route notes the time that assignment took. */
export const assignMsField = "chameleon.assign_ms";

/** What a route may say about its request. */
export class RequestTrace {
  readonly context: TraceContext;
  /** Of the request's span: ids, counts and names, never text. */
  readonly attributes: Attributes = {};

  constructor(context: TraceContext) {
    this.context = context;
  }

  note(attributes: Attributes): void {
    Object.assign(this.attributes, attributes);
  }

  /** `dispatch`, with this trace on every sequence. */
  carriedBy(dispatch: Dispatch): Dispatch {
    if (!this.context.sampled) return dispatch;
    const traceparent = formatTraceparent(this.context);
    return (batch, signal) =>
      dispatch({ ...batch, sequences: batch.sequences.map((sequence) => ({ ...sequence, traceparent })) }, signal);
  }
}
