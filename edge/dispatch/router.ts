/**
 * Decides which backend a micro-batch goes to. Pure: the Dispatcher records the results of calls.
 * - Distance: the nearest backends are used until the estimated wait exceeds the additional round trip to the next ones.
 * - Among equally near backends: rendezvous hashing with bounded load (Mirrokni et al., arXiv 1608.01350), so that a centroid, own adapter
 *   or memory stays with one process, whose caches are warm.
 * - A backend is unfit if it is ejected, serves another manifest or has other numerics. Unfit backends are used only if no other is left.
 * - Load is a backend's last report plus what was sent since. Routers with the same old reports would all choose the same backend
 *   (Mitzenmacher, "How useful is old information?", IEEE TPDS 11:1, 2000), so each unanswered sequence counts once for each router that
 *   probably sends.
 */
import type { BackendLoad } from "../../shared/contracts/backend-headers.ts";
import { fnv1a } from "../../shared/math/fnv1a.ts";
import { philox2x32 } from "../../shared/math/sampling.ts";
import { type Region, regions } from "../platform/region.ts";
import type { BackendAddress } from "./addresses.ts";
import { type Backend, BackendGroup } from "./backend-group.ts";
import { addLoads } from "./backend-state.ts";
import { routingLimits, waitMs } from "./routing-limits.ts";

export interface Route {
  manifestHash: string;
  centroidId: string | null;
  /** Hash of a tenant's own adapter that answers in place of the centroid's adapter. */
  adapterHash?: string;
  memoryHash?: string;
  numerics?: string | null;
}

export interface Choice {
  backend: Backend;
  isFit: boolean;
}

export class Router {
  readonly #region: Region | null;
  readonly #groups: readonly BackendGroup[];

  /** `region`: where this router runs; null: every backend is equally near. */
  constructor(addresses: readonly BackendAddress[], region: Region | null = null) {
    this.#region = region;
    this.#groups = addresses.map((address) => new BackendGroup(address));
  }

  choose(route: Route, tried: ReadonlySet<string>, nowMs: number): Choice | null {
    const key = route.memoryHash ?? route.adapterHash ?? route.centroidId ?? "";
    const isFit = (backend: Backend) => this.#isFit(backend, route, nowMs);
    const candidates = this.#groups.flatMap((group) => group.candidates(tried, isFit, nowMs));
    const fit = candidates.filter((one) => !tried.has(one.id) && isFit(one));
    if (fit.length > 0) {
      // A call without a named process may reach a process that was tried already, so other backends are preferred.
      const others = fit.filter((one) => one.name !== null || !one.group.wasTried(tried));
      const backend = this.#choose(key, others.length > 0 ? others : fit, nowMs);
      const group = backend.group;
      return { backend: group.mustDiscover(tried) ? group.any : backend, isFit: true };
    }
    const unfit = candidates.filter((one) => !tried.has(one.id));
    if (unfit.length === 0) return null;
    // The backend whose ejection ends first is the likeliest to work again. A backend that serves another manifest would refuse.
    const backAtMs = (one: Backend) => this.#backAtMs(one) ?? Number.POSITIVE_INFINITY;
    const order = inOrder(key, unfit);
    return { backend: order.reduce((a, b) => (backAtMs(b) < backAtMs(a) ? b : a)), isFit: false };
  }

  /** Estimated share of slots in use; above 1 if sequences wait. */
  shareOf(backend: Backend, nowMs: number): number {
    return share(this.#loadsAt(nowMs)(backend));
  }

  /** Pass each probe's result to `group.recordProbe`. */
  takeProbes(nowMs: number): Backend[] {
    const all = this.#groups.flatMap(({ any, processes }) => [any, ...processes]);
    return all.filter(({ health }) => health.takeProbe(nowMs));
  }

  #isFit(backend: Backend, { manifestHash, numerics }: Route, nowMs: number): boolean {
    const isFitItself = ({ health }: Backend) =>
      health.ejectedUntilMs === null &&
      health.serves(manifestHash, nowMs) &&
      (!numerics || health.serves(numerics, nowMs));
    if (!isFitItself(backend)) return false;
    const { processes } = backend.group;
    return backend.name !== null || processes.length === 0 || processes.some(isFitItself);
  }

  /** End of the backend's ejection, or of the first ejection among an address's processes; null without an ejection. */
  #backAtMs(backend: Backend): number | null {
    const { ejectedUntilMs } = backend.health;
    if (backend.name !== null || ejectedUntilMs !== null) return ejectedUntilMs;
    const times = backend.group.processes.map(({ health }) => health.ejectedUntilMs);
    return times.reduce((a, b) => (a === null || (b !== null && b < a) ? b : a), null);
  }

  /** Takes the nearest backends by round trip + wait, then the first in `key`'s order with less than its share of the load. */
  #choose(key: string, fit: readonly Backend[], nowMs: number): Backend {
    if (fit.length === 1) return fit[0];
    const loadOf = this.#loadsAt(nowMs);
    const distanceOf = ({ address }: Backend) => roundTripMs(this.#region, address.region);
    const tiers = [...Map.groupBy(fit, distanceOf)].map(([distanceMs, backends]) => {
      const load = backends.map(loadOf).reduce(addLoads);
      return { distanceMs, backends, load, costMs: distanceMs + waitMs(share(load)) };
    });
    const { backends, load } = tiers.reduce((a, b) =>
      (b.costMs - a.costMs || b.distanceMs - a.distanceMs) < 0 ? b : a,
    );
    const { loadFactor, freeShare } = routingLimits;
    const bound = Math.max(freeShare, (loadFactor * (load.sequences + 1)) / load.slots);
    // Such a backend exists, because at least one backend has at most the average load.
    return inOrder(key, backends).find((one) => share(loadOf(one)) < bound)!;
  }

  #loadsAt(nowMs: number): (backend: Backend) => BackendLoad {
    const senders = this.#sendersAt(nowMs);
    return (backend) =>
      backend.name === null ? backend.group.loadAt(nowMs, senders) : backend.load.at(nowMs, senders);
  }

  /** Estimated number of routers that send to these backends: the total load divided by this router's part. */
  #sendersAt(nowMs: number): number {
    let [own, others] = [1, 0];
    for (const { any, processes } of this.#groups) {
      for (const { load } of [any, ...processes]) {
        own += load.own;
        others += load.othersAt(nowMs);
      }
    }
    return Math.min(routingLimits.maxSenders, 1 + others / own);
  }
}

function share({ sequences, slots }: BackendLoad): number {
  return sequences / slots;
}

/** Rendezvous hashing: names in the order that `key` prefers. Adding or removing a name moves only the keys that prefer it. */
export function rendezvousOrder(key: string, names: readonly string[]): string[] {
  const hash = fnv1a(key);
  // FNV-1a alone mixes key and name too weakly, so Philox mixes their hashes.
  const weighted = names.map((name) => ({ name, weight: philox2x32(hash, 0, fnv1a(name))[0] }));
  weighted.sort((a, b) => b.weight - a.weight || (a.name < b.name ? -1 : 1));
  return weighted.map(({ name }) => name);
}

function inOrder(key: string, backends: readonly Backend[]): Backend[] {
  const byId = new Map(backends.map((backend) => [backend.id, backend]));
  return rendezvousOrder(key, [...byId.keys()]).map((id) => byId.get(id)!);
}

/**
 * Round trips between regions in milliseconds, rows and columns in the order of `regions`. Estimated, not measured: 1.5 x the great-circle
 * length of the main cable routes (wnam-enam, enam-weur, enam-sam, weur-eeur, weur-me, weur-afr, me-apac, apac-oc, wnam-apac, wnam-oc)
 * between one large site per region, at 200 km per millisecond each way, + 5 ms within a region.
 */
const roundTripsMs = [
  /*          wnam enam  sam weur eeur apac   oc  afr   me */
  /* wnam */ [5, 63, 178, 161, 174, 210, 184, 291, 234],
  /* enam */ [63, 5, 120, 103, 117, 263, 242, 234, 176],
  /* sam  */ [178, 120, 5, 218, 231, 378, 357, 349, 291],
  /* weur */ [161, 103, 218, 5, 18, 165, 260, 135, 78],
  /* eeur */ [174, 117, 231, 18, 5, 178, 273, 149, 91],
  /* apac */ [210, 263, 378, 165, 178, 5, 100, 295, 92],
  /* oc   */ [184, 242, 357, 260, 273, 100, 5, 390, 187],
  /* afr  */ [291, 234, 349, 135, 149, 295, 390, 5, 208],
  /* me   */ [234, 176, 291, 78, 91, 92, 187, 208, 5],
];

/** If either region is unknown, both count as the same region. */
export function roundTripMs(from: Region | null, to: Region | null): number {
  return from === null || to === null ? roundTripsMs[0][0] : roundTripsMs[regions.indexOf(from)][regions.indexOf(to)];
}
