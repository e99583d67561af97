/** One line of help, the file that runs it, and its first arguments. */
export type CommandEntry = [help: string, entry: string, ...first: string[]];

export function commandsOf(isCheckout: boolean): Record<string, CommandEntry>;
export function usage(commands: Record<string, CommandEntry>, version: string): string;
