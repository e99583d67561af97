/** Parsers of `chameleon keys`' option values. Each throws commander's InvalidArgumentError. */
import { InvalidArgumentError } from "commander";

/** null means no limit; "plan" means the limit of the tenant's plan. */
export function limit(text: string): number | null | "plan" {
  if (text === "none") return null;
  if (text === "plan") return "plan";
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('must be a whole number, "none" or "plan"');
  return Number(text);
}

/** Adds an alias to those of earlier options, because the option is repeatable. */
export function aliases(text: string, before: Record<string, string> | undefined): Record<string, string> {
  const [name, model, ...others] = text.split("=");
  if (!name || !model || others.length > 0) {
    throw new InvalidArgumentError("must be a name and a model, as gpt-4o-mini=smollm2-135m:auto");
  }
  return { ...before, [name]: model };
}

const unitMs = { m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** Reads a duration such as 30m, 24h or 7d. */
export function duration(text: string): number {
  const parts = /^(\d{1,5})([mhd])$/.exec(text);
  if (!parts) throw new InvalidArgumentError("must be a time, as 30m, 24h or 7d");
  return Number(parts[1]) * unitMs[parts[2] as keyof typeof unitMs];
}

export function when(text: string): Date {
  if (/^\d+[mhd]$/.test(text)) return new Date(Date.now() + duration(text));
  const date = new Date(text);
  if (!/^\d{4}-\d{2}-\d{2}/.test(text) || Number.isNaN(date.getTime())) {
    throw new InvalidArgumentError("must be a time from now, as 90d, or a date, as 2027-01-31");
  }
  return date;
}
