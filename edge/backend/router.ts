/**
 * Which backend a micro-batch goes to. Pure: no I/O, no clock; backends.ts tells it what happens.
 *
 * A centroid prefers the backends in its rendezvous order, so that its adapter and prompts are warm where it goes; a
 * backend over its share of the load is passed by (bounded load). Those that are ejected, serve another manifest or
 * compute other bits come last, and still come: where nobody is known to be fit, asking is better than refusing.
 */
import { BackendHealth } from "./health.ts";
import { rendezvousOrder } from "./rendezvous.ts";
import { type RoutingLimits, routingLimits } from "./routing-limits.ts";

export interface Route {
  manifestHash: string;
  centroidId: string | null;
  /** Of a tenant's own adapter, worn instead. */
  adapterHash?: string;
  /** Fingerprint of the numerics to go on with; null or absent where any will do. */
  numerics?: string | null;
}

export interface Choice {
  backend: string;
  /** Nothing speaks against it. */
  isFit: boolean;
}

interface Backend {
  health: BackendHealth;
  /** Sequences under way there, as far as this router sent them. */
  load: number;
}

export class Router {
  readonly #limits: RoutingLimits;
  readonly #backends: ReadonlyMap<string, Backend>;

  /** `backends` are names, each once; the URL serves. */
  constructor(backends: readonly string[], limits: RoutingLimits = routingLimits) {
    this.#limits = limits;
    this.#backends = new Map(backends.map((name) => [name, { health: new BackendHealth(limits), load: 0 }]));
  }

  /** The backend to ask next, not one of `tried`; null where none is left. */
  choose(route: Route, tried: ReadonlySet<string>, nowMs: number): Choice | null {
    const order = rendezvousOrder(route.adapterHash ?? route.centroidId ?? "", [...this.#backends.keys()]);
    const isFit = (name: string) => {
      const { health } = this.#of(name);
      const serves = (hash: string | null | undefined) => !hash || health.serves(hash, nowMs);
      return health.ejectedUntilMs === null && serves(route.manifestHash) && serves(route.numerics);
    };
    const fit = order.filter(isFit);
    const left = fit.filter((name) => !tried.has(name));
    if (left.length > 0) {
      const bound = this.#boundOver(fit);
      const least = left.reduce((a, b) => (this.#of(b).load < this.#of(a).load ? b : a));
      return { backend: left.find((name) => this.#of(name).load < bound) ?? least, isFit: true };
    }
    const unfit = order.filter((name) => !tried.has(name) && !isFit(name));
    if (unfit.length === 0) return null;
    // One that only serves another manifest would refuse for certain; whose ejection ends first may well be back.
    const doubt = (name: string) => this.#of(name).health.ejectedUntilMs ?? Number.POSITIVE_INFINITY;
    return { backend: unfit.reduce((a, b) => (doubt(b) < doubt(a) ? b : a)), isFit: false };
  }

  loadOf(backend: string): number {
    return this.#of(backend).load;
  }

  /** Adds to the number of sequences under way there; may be negative. */
  addLoad(backend: string, sequences: number): void {
    this.#of(backend).load += sequences;
  }

  /** Records a completed sequence. */
  recordSuccess(backend: string): void {
    this.#of(backend).health.recordSuccess();
  }

  /** Counts a failed call. Returns whether that ejected the backend. */
  recordFailure(backend: string, isCertain: boolean, nowMs: number): boolean {
    return this.#of(backend).health.recordFailure(isCertain, nowMs);
  }

  /** Records that the backend refused this manifest hash or numerics fingerprint. */
  recordMismatch(backend: string, hash: string, nowMs: number): void {
    this.#of(backend).health.recordMismatch(hash, nowMs);
  }

  /** Returns the ejected backends to probe now. Call `recordProbe` with each result. */
  takeProbes(nowMs: number): string[] {
    return [...this.#backends].filter(([, { health }]) => health.takeProbe(nowMs)).map(([name]) => name);
  }

  recordProbe(backend: string, isReady: boolean, nowMs: number): void {
    this.#of(backend).health.recordProbe(isReady, nowMs);
  }

  /** The load under which a backend of `fit` takes one more. */
  #boundOver(fit: readonly string[]): number {
    const { loadFactor, freeLoad } = this.#limits;
    const total = fit.reduce((sum, name) => sum + this.#of(name).load, 1);
    return Math.max(freeLoad, Math.ceil((loadFactor * total) / fit.length));
  }

  #of(name: string): Backend {
    const backend = this.#backends.get(name);
    if (!backend) throw new Error(`there is no backend ${name}`);
    return backend;
  }
}
