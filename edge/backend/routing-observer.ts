/** What routing does beyond passing calls on, told as it happens: for metrics, and for tests. */

export interface RoutingObserver {
  /** Sequences without a first token go to another backend, because `backend` failed them. */
  retried(backend: string, sequences: number): void;
  /** Sequences go on elsewhere after the tokens that they have, because `backend` failed them. */
  resumed(backend: string, sequences: number): void;
  /** Sequences with tokens end, because `backend` failed them and no other computes the same bits. */
  notResumed(backend: string, sequences: number): void;
  /** Sequences run on `backend`, too, because their first token is late elsewhere. */
  hedged(backend: string, sequences: number): void;
  /** The backend is asked last from now on. */
  ejected(backend: string): void;
  /** A probe brought it back. */
  returned(backend: string): void;
  /** A call failed, and why. */
  failed(backend: string, why: Error): void;
}
