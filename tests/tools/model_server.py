"""Runs llama.cpp's own HTTP server on a model file until its standard input ends, and prints its address first.

Usage: model_server.py MODEL_FILE NAME

The server is the C++ one, from a package that ships it built; this script only starts it. That it ends with its input means that
it cannot outlive the test that started it.
"""

import sys

import xllamacpp


def main(path, name):
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {name}
    params.n_ctx = 2048
    params.n_parallel = 2
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.n_threads_http = 4
    params.warmup = False
    params.embedding = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
