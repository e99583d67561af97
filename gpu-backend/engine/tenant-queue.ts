/**
 * Whose turn it is. Pure. Between tenants the one with the fewest running sequences is next, among those the one whose
 * last turn is longest ago; so a tenant with nothing running waits for one turn of each other tenant at most, however
 * many sequences they have waiting. Within a tenant it is the sequence that is due first, and first come, first served
 * among equals.
 * Of the tenants that run, one has more than its share that has more sequences, waiting ones counted, than the mean of all and
 * than half as many again as any that has no more than the mean: about as many as others is no burst.
 * Who left a moment ago counts as one that runs: it may only be between two requests.
 */

export interface Queued {
  readonly tenant: string;
  /** When its turn should have come, on the engine's clock. */
  readonly dueMs: number;
  /** Whether it is of no use to start later than that. */
  readonly expires: boolean;
}

interface Tenant<S> {
  /** By time due. */
  waiting: S[];
  /** In order of their start. */
  running: Set<S>;
  lastTurn: number;
  /** When it ran last; null where that is too long ago, or never. */
  ranMs: number | null;
}

/** How long a tenant is remembered that has nothing left: longer than a caller needs between an answer and its next request. */
const rememberedMs = 100;

const burstRatio = 1.5;

export class TenantQueue<S extends Queued> {
  /** Those that have anything waiting or running, or ran a moment ago. */
  readonly #tenants = new Map<string, Tenant<S>>();
  #turns = 0;
  #waiting = 0;

  get waiting(): number {
    return this.#waiting;
  }

  /** A tenant's running sequences, in order of their start. */
  runningOf(tenant: string): ReadonlySet<S> {
    return this.#tenants.get(tenant)?.running ?? new Set();
  }

  waitingOf(tenant: string): number {
    return this.#tenants.get(tenant)?.waiting.length ?? 0;
  }

  /** Lets a sequence wait. */
  add(sequence: S): void {
    let tenant = this.#tenants.get(sequence.tenant);
    if (!tenant) {
      tenant = { waiting: [], running: new Set(), lastTurn: 0, ranMs: null };
      this.#tenants.set(sequence.tenant, tenant);
    }
    // Behind all others: else one that comes and goes would always be first.
    if (isEmpty(tenant)) tenant.lastTurn = ++this.#turns;
    const after = tenant.waiting.findLastIndex(({ dueMs }) => dueMs <= sequence.dueMs);
    tenant.waiting.splice(after + 1, 0, sequence);
    this.#waiting++;
  }

  /** Makes a waiting sequence a running one. */
  start(sequence: S): void {
    const tenant = this.#tenantOf(sequence);
    this.#leave(tenant, sequence);
    tenant.running.add(sequence);
    tenant.lastTurn = ++this.#turns;
  }

  /** Makes a running sequence a waiting one. */
  stop(sequence: S): void {
    this.#tenantOf(sequence).running.delete(sequence);
    this.add(sequence);
  }

  /** Forgets a sequence, waiting or running; one that is neither stays what it is. */
  remove(sequence: S): void {
    const tenant = this.#tenants.get(sequence.tenant);
    if (!tenant) return;
    if (tenant.waiting.includes(sequence)) this.#leave(tenant, sequence);
    else tenant.running.delete(sequence);
    if (isEmpty(tenant) && tenant.ranMs === null) this.#tenants.delete(sequence.tenant);
  }

  /** It is `nowMs`: remembers who runs, forgets who ran too long ago. */
  look(nowMs: number): void {
    for (const [name, tenant] of this.#tenants) {
      if (tenant.running.size > 0) tenant.ranMs = nowMs;
      else if (tenant.ranMs !== null && nowMs - tenant.ranMs > rememberedMs) tenant.ranMs = null;
      if (isEmpty(tenant) && tenant.ranMs === null) this.#tenants.delete(name);
    }
  }

  /** Tenants that have more than their share. */
  overShare(): Set<string> {
    const over = new Set<string>();
    const counts = [...this.#tenants.values()].filter(runsOrRan).map(sequencesOf);
    if (counts.length < 2) return over;
    const mean = counts.reduce((sum, count) => sum + count, 0) / counts.length;
    const share = Math.max(mean, burstRatio * Math.max(...counts.filter((count) => count <= mean)));
    for (const [name, tenant] of this.#tenants) {
      if (runsOrRan(tenant) && sequencesOf(tenant) > share) over.add(name);
    }
    return over;
  }

  /** Asks each waiting sequence once, in turn, as turns are after what was started meanwhile. */
  *inTurn(): Generator<S> {
    /** How many of a tenant's waiting sequences were asked and still wait. */
    const asked = new Map<Tenant<S>, number>();
    for (;;) {
      let next: Tenant<S> | null = null;
      for (const tenant of this.#tenants.values()) {
        if ((asked.get(tenant) ?? 0) >= tenant.waiting.length) continue;
        if (!next || isBefore(tenant, next)) next = tenant;
      }
      if (!next) return;
      const place = asked.get(next) ?? 0;
      const sequence = next.waiting[place];
      yield sequence;
      if (next.waiting[place] === sequence) asked.set(next, place + 1);
    }
  }

  /** Waiting sequences that have expired. */
  late(nowMs: number): S[] {
    return [...this.#tenants.values()].flatMap(({ waiting }) => {
      const due = waiting.findIndex(({ dueMs }) => dueMs > nowMs);
      return waiting.slice(0, due < 0 ? waiting.length : due).filter(({ expires }) => expires);
    });
  }

  /**
   * Whose sequence should give way to one of `tenant`: the youngest of the tenant with the most running. null where
   * that has not at least two more running, since then the other would be the poorer one afterwards.
   */
  youngestOfRichest(tenant: string): S | null {
    const own = this.runningOf(tenant).size;
    let richest = new Set<S>();
    for (const { running } of this.#tenants.values()) if (running.size > richest.size) richest = running;
    return richest.size >= own + 2 ? ([...richest].at(-1) ?? null) : null;
  }

  #leave(tenant: Tenant<S>, sequence: S): void {
    const place = tenant.waiting.indexOf(sequence);
    if (place < 0) throw new Error("the sequence does not wait");
    tenant.waiting.splice(place, 1);
    this.#waiting--;
  }

  #tenantOf({ tenant: name }: S): Tenant<S> {
    const tenant = this.#tenants.get(name);
    if (!tenant) throw new Error(`tenant ${name} has no sequences`);
    return tenant;
  }
}

function isEmpty<S>({ waiting, running }: Tenant<S>): boolean {
  return waiting.length + running.size === 0;
}

function runsOrRan<S>({ running, ranMs }: Tenant<S>): boolean {
  return running.size > 0 || ranMs !== null;
}

function sequencesOf<S>({ waiting, running }: Tenant<S>): number {
  return Math.max(1, waiting.length + running.size);
}

function isBefore<S>(one: Tenant<S>, other: Tenant<S>): boolean {
  const difference = one.running.size - other.running.size;
  return difference < 0 || (difference === 0 && one.lastTurn < other.lastTurn);
}
