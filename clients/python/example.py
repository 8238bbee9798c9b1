#!/usr/bin/env python3
"""Reads a document into a session, asks about it, and shows what the answer cost.

    example.py DOCUMENT QUESTION [--address 127.0.0.1:50051] [--max-tokens 64]
"""
import argparse
import sys

from spotd_client import Client, SpotdError


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask a question about a document.")
    parser.add_argument("document")
    parser.add_argument("question")
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()

    def show_progress(done, total):
        print(f"\rread {done} of {total} tokens", end="", file=sys.stderr, flush=True)

    try:
        with Client(arguments.address) as spotd:
            session = spotd.create_session(display_name=arguments.document[:256])
            try:
                spotd.append_file(session.name, arguments.document, on_progress=show_progress)
                print(file=sys.stderr)
                result = None
                for token in spotd.generate(session.name, message=arguments.question, top_blocks=5,
                                            max_tokens=arguments.max_tokens):
                    print(token.text, end="", flush=True)
                    result = token.result or result
                print()
                show_account(result)
            finally:
                spotd.delete_session(session.name)
    except (OSError, SpotdError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def show_account(result) -> None:
    first = result.timings.time_to_first_token.ToTimedelta().total_seconds()
    print(f"{result.usage.generated_tokens} tokens, the first after {first:.2f} s; "
          f"context {result.usage.prompt_tokens} tokens, {result.usage.session_tokens} of them from the session; "
          f"density {result.sparsity.density:.1%}", file=sys.stderr)
    for block in result.sparsity.top_blocks:
        print(f"  read from tokens {block.first_token}-{block.first_token + block.token_count - 1}: "
              f"{block.share:.0%} of steps and layers", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
