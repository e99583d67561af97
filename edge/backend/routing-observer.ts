/** Routing events, for metrics, logs and tests. */

export interface RoutingObserver {
  /** Sequences without tokens are sent to another backend, because `backend` failed. */
  retried(backend: string, sequences: number): void;
  /** Another backend has accepted sequences with tokens, because `backend` failed: once for each of its failures. */
  resumed(backend: string, sequences: number): void;
  /** Sequences with tokens end in an error, because `backend` failed and no other has the same numerics. */
  notResumed(backend: string, sequences: number): void;
  /** Sequences are also sent to `backend`, because their first token is late. */
  hedged(backend: string, sequences: number): void;
  /** The backend is used only if no other is fit, until a probe succeeds. */
  ejected(backend: string): void;
  /** A probe of an ejected backend succeeded. */
  returned(backend: string): void;
  /** A call failed. */
  failed(backend: string, why: Error): void;
}
