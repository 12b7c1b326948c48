import { ClientError } from "./types.js";

type Listener = (value: any) => void;

/** Listeners by name. One that throws harms no other. */
export class Emitter {
  private _table = new Map<string, Listener[]>();

  constructor(private _failed: (error: Error, name: string) => void) {}

  on(name: string, listener: Listener): void {
    this._table.set(name, [...(this._table.get(name) ?? []), listener]);
  }

  off(name: string, listener: Listener): void {
    const left = (this._table.get(name) ?? []).filter((one) => one !== listener);
    if (left.length) this._table.set(name, left);
    else this._table.delete(name);
  }

  has(name: string): boolean {
    return this._table.has(name);
  }

  emit(name: string, value?: any): void {
    for (const listener of this._table.get(name) ?? []) {
      try {
        const result: any = listener(value);
        // The rejection of an async listener is its error too.
        if (typeof result?.then === "function") result.then(undefined, (error: any) => this._failed(asError(error), name));
      } catch (error) {
        this._failed(asError(error), name);
      }
    }
  }
}

export const asError = (error: any): Error => (error instanceof Error ? error : new Error(String(error)));

const FULL = 1024;

/** Values that wait for a `for await`. */
export class Queue<T> implements AsyncIterableIterator<T> {
  private _values: T[] = [];
  private _waiting: { resolve: (result: IteratorResult<T>) => void; reject: (error: Error) => void }[] = [];
  private _done = false;
  private _error: Error | null = null;

  constructor(private _ended: () => void) {}

  /** Nothing is dropped silently: a loop that falls `FULL` values behind ends with an error. */
  push(value: T): void {
    if (this._done) return;
    const next = this._waiting.shift();
    if (next) next.resolve({ value, done: false });
    else if (this._values.length < FULL) this._values.push(value);
    else this.end(new ClientError("full", `${FULL} pushes wait for this loop`));
  }

  end(error: Error | null = null): void {
    if (this._done) return;
    this._done = true;
    this._error = error;
    this._ended();
    for (const { resolve, reject } of this._waiting.splice(0)) error ? reject(error) : resolve({ value: undefined, done: true });
  }

  next(): Promise<IteratorResult<T>> {
    if (this._values.length) return Promise.resolve({ value: this._values.shift()!, done: false });
    if (this._error) {
      const { _error: error } = this;
      this._error = null;
      return Promise.reject(error);
    }
    if (this._done) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve, reject) => this._waiting.push({ resolve, reject }));
  }

  return(): Promise<IteratorResult<T>> {
    this._values = [];
    this.end();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
