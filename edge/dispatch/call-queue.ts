/**
 * Decides which entries (sequences or control calls) go in a cell's next call to a backend. Pure.
 * Entries of one group share calls (micro-batches), because they need the same backend and model. A group sends at once while fewer than
 * `maxCalls` of its calls await an answer, so a lone request never waits. Otherwise its entries gather until an answer comes: the busier
 * the backend, the larger the calls.
 * Tenants take turns, one entry a turn. The tenant with the oldest last turn is next, with its entry that is due first.
 */
import { queueLimits } from "./routing-limits.ts";

export type QueueLimits = typeof queueLimits;

export interface CallGroup {
  key: string;
  backend: string;
  /** Maximum calls of the group that await an answer. Default: `callsPerGroup`. */
  maxCalls?: number;
}

export interface QueueEntry {
  tenant: string;
  /** Time at which the entry is due, in milliseconds. A tenant's entries are sent in order of `dueMs`. */
  dueMs: number;
}

export interface QueuedCall<T> {
  group: CallGroup;
  backend: string;
  entries: T[];
}

interface Waiting<T> {
  group: CallGroup;
  entry: T;
}

interface Tenant<T> {
  waiting: Waiting<T>[];
  lastTurn: number;
}

export class CallQueue<T extends QueueEntry> {
  readonly #limits: QueueLimits;
  readonly #tenants = new Map<string, Tenant<T>>();
  readonly #awaiting = new Set<QueuedCall<T>>();
  waiting = 0;
  #turns = 0;

  constructor(limits: QueueLimits = queueLimits) {
    this.#limits = limits;
  }

  waitingOf(tenant: string): number {
    return this.#tenants.get(tenant)?.waiting.length ?? 0;
  }

  /** Maximum of the tenant's waiting entries: half of the room that other tenants' entries leave. */
  roomOf(tenant: string): number {
    const free = this.#limits.entries - this.waiting;
    return Math.max(0, Math.floor((free + this.waitingOf(tenant)) / 2));
  }

  get idle(): boolean {
    return this.waiting === 0 && this.#awaiting.size === 0;
  }

  /** Adds entries even beyond `roomOf`, so that a sequence that has begun is never refused. */
  add(group: CallGroup, entries: readonly T[]): void {
    for (const entry of entries) {
      // A new tenant has the last turn. With the first turn, a tenant that comes and goes would always be first.
      const tenant = this.#tenants.get(entry.tenant) ?? { waiting: [], lastTurn: ++this.#turns };
      this.#tenants.set(entry.tenant, tenant);
      const before = tenant.waiting.findLastIndex((other) => other.entry.dueMs <= entry.dueMs);
      tenant.waiting.splice(before + 1, 0, { group, entry });
      this.waiting++;
    }
  }

  remove(isDropped: (entry: T) => boolean): void {
    for (const [name, tenant] of this.#tenants) {
      const left = tenant.waiting.filter(({ entry }) => !isDropped(entry));
      this.waiting -= tenant.waiting.length - left.length;
      tenant.waiting = left;
      if (left.length === 0) this.#tenants.delete(name);
    }
  }

  take(): QueuedCall<T> | null {
    if (this.waiting === 0 || this.#awaiting.size >= this.#limits.connections) return null;
    const { callsPerGroup, connectionsPerBackend } = this.#limits;
    const ofGroup = Map.groupBy(this.#awaiting, (call) => call.group.key);
    const ofBackend = Map.groupBy(this.#awaiting, (call) => call.backend);
    const maySend = ({ group: { key, backend, maxCalls = callsPerGroup } }: Waiting<T>) =>
      (ofGroup.get(key)?.length ?? 0) < maxCalls && (ofBackend.get(backend)?.length ?? 0) < connectionsPerBackend;
    const [next] = this.#inTurn(maySend);
    if (!next) return null;
    const [{ group }] = next.wanted;
    const call = { group, backend: group.backend, entries: this.#takeTurns(group.key) };
    this.#awaiting.add(call);
    return call;
  }

  /** Must be called when the call was answered or has failed. */
  release(call: QueuedCall<T>): void {
    this.#awaiting.delete(call);
  }

  #inTurn(isWanted: (one: Waiting<T>) => boolean): { tenant: Tenant<T>; wanted: Waiting<T>[] }[] {
    const all = Array.from(this.#tenants.values(), (tenant) => ({ tenant, wanted: tenant.waiting.filter(isWanted) }));
    return all.filter(({ wanted }) => wanted.length > 0).sort((a, b) => a.tenant.lastTurn - b.tenant.lastTurn);
  }

  #takeTurns(key: string): T[] {
    const turns = this.#inTurn(({ group }) => group.key === key);
    const taken = new Set<T>();
    while (taken.size < this.#limits.entriesPerCall && turns.length > 0) {
      const { tenant, wanted } = turns.shift()!;
      taken.add(wanted.shift()!.entry);
      tenant.lastTurn = ++this.#turns;
      if (wanted.length > 0) turns.push({ tenant, wanted });
    }
    this.remove((entry) => taken.has(entry));
    return [...taken];
  }
}
