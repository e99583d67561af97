/** Turns of tenants in the prefill phase: whose prompts went on longest ago is first. Pure. */
export class PrefillTurns<S extends { readonly tenant: string }> {
  /** Tenants with a prompt under way, in the order of their turns. */
  #tenants: string[] = [];

  /** A prompt of the tenant starts. A tenant that comes is behind all others, so that comers never hold anybody up. */
  started(tenant: string): void {
    if (!this.#tenants.includes(tenant)) this.#tenants.push(tenant);
  }

  /** The first prompt of each tenant by turns, then the second of each, and so on; `promptsOf` gives a tenant's in order. */
  inTurn(promptsOf: (tenant: string) => readonly S[]): S[] {
    const placed = this.#tenants.flatMap((tenant) => promptsOf(tenant).map((prompt, place) => ({ prompt, place })));
    return placed.sort((a, b) => a.place - b.place).map(({ prompt }) => prompt);
  }

  /** A phase of `advancing` runs: its tenants come last from now on, those without any of `prompts` are forgotten. */
  advanced(advancing: Iterable<S>, prompts: readonly S[]): void {
    const last = new Set(Array.from(advancing, ({ tenant }) => tenant));
    const prefilling = new Set(prompts.map(({ tenant }) => tenant));
    this.#tenants = [...this.#tenants.filter((tenant) => prefilling.has(tenant) && !last.has(tenant)), ...last];
  }
}
