/** The order of tenants in the prefill phase: least recently advanced first. Pure. */
export class PrefillRoundRobin<S extends { readonly tenant: string }> {
  /** Tenants with a prompt in prefill, next first. */
  #tenants: string[] = [];

  /** Records that a prompt of the tenant starts. New tenants join at the end. */
  started(tenant: string): void {
    if (!this.#tenants.includes(tenant)) this.#tenants.push(tenant);
  }

  /** The first prompt of each tenant in order, then the second of each, and so on. `promptsOf` gives a tenant's prompts. */
  inTurn(promptsOf: (tenant: string) => readonly S[]): S[] {
    const placed = this.#tenants.flatMap((tenant) => promptsOf(tenant).map((prompt, place) => ({ prompt, place })));
    return placed.sort((a, b) => a.place - b.place).map(({ prompt }) => prompt);
  }

  /** Moves the tenants of `advancing` to the end, and drops tenants without any of `prompts`. */
  advanced(advancing: Iterable<S>, prompts: readonly S[]): void {
    const last = new Set(Array.from(advancing, ({ tenant }) => tenant));
    const prefilling = new Set(prompts.map(({ tenant }) => tenant));
    this.#tenants = [...this.#tenants.filter((tenant) => prefilling.has(tenant) && !last.has(tenant)), ...last];
  }
}
