/**
 * Decides which backend a micro-batch goes to. Pure: no I/O, no clock; batch-run.ts reports what happens.
 *
 * First the distance: the nearest backends are used until a wait there, estimated by their load, costs more than the way to
 * the next ones. Then, among backends of one distance, rendezvous hashing with bounded load: a centroid or own adapter stays
 * with one process, whose caches are warm, unless that has more than its share of the load. Backends that are ejected,
 * serve another manifest or have other numerics come last, but are still used: if none is known to be fit, trying is
 * better than refusing.
 */
import type { Region } from "../platform/region.ts";
import type { BackendAddress } from "./addresses.ts";
import { type Backend, BackendGroup } from "./backend-group.ts";
import { rendezvousOrder } from "./rendezvous.ts";
import { roundTripMs } from "./round-trips.ts";
import { type RoutingLimits, routingLimits } from "./routing-limits.ts";

export interface Route {
  manifestHash: string;
  centroidId: string | null;
  /** Of a tenant's own adapter, used instead of the centroid's. */
  adapterHash?: string;
  /** Numerics fingerprint to continue with; null or absent if any will do. */
  numerics?: string | null;
}

export interface Choice {
  backend: Backend;
  /** It is not ejected, and not known to serve another manifest or to have other numerics. */
  isFit: boolean;
}

export interface RouterOptions {
  /** Where the caller is; null: every backend is equally near. */
  region?: Region | null;
  limits?: RoutingLimits;
}

export class Router {
  readonly #region: Region | null;
  readonly #limits: RoutingLimits;
  /** By URL. */
  readonly #groups: ReadonlyMap<string, BackendGroup>;

  constructor(addresses: readonly BackendAddress[], { region = null, limits = routingLimits }: RouterOptions = {}) {
    this.#region = region;
    this.#limits = limits;
    this.#groups = new Map(addresses.map((address) => [address.url, new BackendGroup(address, limits)]));
  }

  /** The backend to use next, none of `tried`; null if none is left. */
  choose(route: Route, tried: ReadonlySet<string>, nowMs: number): Choice | null {
    const key = route.adapterHash ?? route.centroidId ?? "";
    const isFit = (backend: Backend) => this.#isFit(backend, route, nowMs);
    const candidates = [...this.#groups.values()].flatMap((group) => group.candidates(tried, isFit, nowMs));
    const fit = candidates.filter((one) => !tried.has(one.id) && isFit(one));
    if (fit.length > 0) {
      // Without a name a call may reach a process that was tried, so other backends go first.
      const others = fit.filter((one) => one.name !== null || !this.#groupOf(one).isTouched(tried));
      const backend = this.#leastLoaded(key, this.#nearest(others.length > 0 ? others : fit));
      const group = this.#groupOf(backend);
      return { backend: group.looksForOthers(tried) ? group.any : backend, isFit: true };
    }
    const unfit = candidates.filter((one) => !tried.has(one.id));
    if (unfit.length === 0) return null;
    // A backend that serves another manifest would refuse for certain; the one whose ejection ends first may be back.
    const backAtMs = (one: Backend) => this.#backAtMs(one) ?? Number.POSITIVE_INFINITY;
    const order = inOrder(key, unfit);
    return { backend: order.reduce((a, b) => (backAtMs(b) < backAtMs(a) ? b : a)), isFit: false };
  }

  /** Sequences under way for each process there. */
  loadOf(backend: Backend): number {
    if (backend.name !== null) return backend.load;
    const { load, capacity } = this.#groupOf(backend);
    return load / capacity;
  }

  /** Counts sequences as under way there. */
  recordSent(backend: Backend, sequences: number): void {
    backend.load += sequences;
    this.#groupOf(backend).recordSent(backend);
  }

  /** Changes the number of sequences under way there. */
  addLoad(backend: Backend, sequences: number): void {
    backend.load += sequences;
  }

  /** Returns the process that answered a call to `asked`, by the name it gave; `asked` if it gave none. */
  recordAnswer(asked: Backend, name: string | null, nowMs: number): Backend {
    return name === null ? asked : this.#groupOf(asked).recordAnswer(asked, name, nowMs);
  }

  /**
   * Records that a call which named this process reached another; `isLost`: it could not be reached in many tries. A process
   * that is gone is forgotten; one that is not is learnt again with its next answer.
   */
  recordMisdirected(backend: Backend, isLost: boolean, nowMs: number): void {
    const group = this.#groupOf(backend);
    group.recordMisdirected(nowMs);
    if (isLost || backend.load === 0) group.forget(backend);
  }

  /** Records a completed sequence. */
  recordSuccess(backend: Backend): void {
    backend.health.recordSuccess();
    this.#groupOf(backend).any.health.recordSuccess();
  }

  /** Counts a failed call. Returns whether that ejected the backend. */
  recordFailure(backend: Backend, isCertain: boolean, nowMs: number): boolean {
    return backend.health.recordFailure(isCertain, nowMs);
  }

  /** Records that the backend refused this manifest hash or numerics fingerprint. */
  recordMismatch(backend: Backend, hash: string, nowMs: number): void {
    backend.health.recordMismatch(hash, nowMs);
  }

  /** Returns the ejected backends to probe now. Call `recordProbe` with each result. */
  takeProbes(nowMs: number): Backend[] {
    const all = [...this.#groups.values()].flatMap(({ any, processes }) => [any, ...processes]);
    return all.filter(({ health }) => health.takeProbe(nowMs));
  }

  recordProbe(backend: Backend, isReady: boolean, nowMs: number): void {
    backend.health.recordProbe(isReady, nowMs);
    const isGone = !isReady && nowMs - backend.lastAnswerMs > this.#limits.forgetMs;
    if (isGone) this.#groupOf(backend).forget(backend);
  }

  #isFit(backend: Backend, { manifestHash, numerics }: Route, nowMs: number): boolean {
    const isFitItself = ({ health }: Backend) =>
      health.ejectedUntilMs === null &&
      health.serves(manifestHash, nowMs) &&
      (!numerics || health.serves(numerics, nowMs));
    if (!isFitItself(backend)) return false;
    const { processes } = this.#groupOf(backend);
    return backend.name !== null || processes.length === 0 || processes.some(isFitItself);
  }

  /** When it may be back; null if it is not ejected. An address is back with the first of its processes. */
  #backAtMs(backend: Backend): number | null {
    const { ejectedUntilMs } = backend.health;
    if (backend.name !== null || ejectedUntilMs !== null) return ejectedUntilMs;
    const times = this.#groupOf(backend).processes.map(({ health }) => health.ejectedUntilMs);
    return times.reduce((a, b) => (a === null || (b !== null && b < a) ? b : a), null);
  }

  /** Of backends at several distances those with the least way and estimated wait together; the nearer if equal. */
  #nearest(fit: readonly Backend[]): Backend[] {
    const distanceMs = ({ address }: Backend) => roundTripMs(this.#region, address.region);
    const tiers = [...Map.groupBy(fit, distanceMs)].toSorted(([a], [b]) => a - b);
    const costs = tiers.map(([ms, tier]) => ms + this.#limits.waitMsPerSequence * this.#loadPerProcess(tier));
    return tiers[costs.indexOf(Math.min(...costs))][1];
  }

  /** The first in the key's order that has less than its share of the load. */
  #leastLoaded(key: string, fit: readonly Backend[]): Backend {
    const { loadFactor, freeLoad } = this.#limits;
    const processes = fit.reduce((sum, one) => sum + this.#capacityOf(one), 0);
    const total = this.#loadPerProcess(fit) * processes + 1;
    const bound = Math.max(freeLoad, Math.ceil((loadFactor * total) / processes));
    const least = fit.reduce((a, b) => (this.loadOf(b) < this.loadOf(a) ? b : a));
    return inOrder(key, fit).find((one) => this.loadOf(one) < bound) ?? least;
  }

  #loadPerProcess(backends: readonly Backend[]): number {
    const processes = backends.reduce((sum, one) => sum + this.#capacityOf(one), 0);
    return backends.reduce((sum, one) => sum + this.loadOf(one) * this.#capacityOf(one), 0) / processes;
  }

  #capacityOf(backend: Backend): number {
    return backend.name === null ? this.#groupOf(backend).capacity : 1;
  }

  #groupOf({ address }: Backend): BackendGroup {
    return this.#groups.get(address.url)!;
  }
}

function inOrder(key: string, backends: readonly Backend[]): Backend[] {
  const byId = new Map(backends.map((backend) => [backend.id, backend]));
  return rendezvousOrder(key, [...byId.keys()]).map((id) => byId.get(id)!);
}
