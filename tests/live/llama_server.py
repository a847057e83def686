"""llama.cpp's HTTP server on one model, until it is ended: `llama_server.py MODEL PORT`."""

import sys
import threading

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.hostnames = ["127.0.0.1"]
parameters.port = int(sys.argv[2])
parameters.n_ctx = 8192
parameters.n_parallel = 4
parameters.cpuparams.n_threads = 1
parameters.endpoint_metrics = True
server = xllamacpp.Server(parameters)
threading.Event().wait()
