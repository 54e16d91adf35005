"""Builds tokenizers of many configurations with Hugging Face's library and compares ids, offsets and decoded text with ours.

Usage: configurations.py TOOL [LINES] [NAME ...]. Exit code 77: the library is not installed.
"""
import json, os, random, subprocess, sys, tempfile

from lines import fuzz_lines, training_texts

try:
    from tokenizers import (AddedToken, Regex, Tokenizer, decoders as D, models, normalizers as N, pre_tokenizers as P,
                            processors as X, trainers as T)
except ImportError:
    sys.exit(77)

tool, n, only = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1500, sys.argv[3:]
lines = fuzz_lines(2, n)
train = lines[:400] + training_texts()
folder = tempfile.mkdtemp()
def bpe(**k): return Tokenizer(models.BPE(**k))
def fit(t,kind,**k):
    tr={'bpe':T.BpeTrainer,'uni':T.UnigramTrainer,'wp':T.WordPieceTrainer,'wl':T.WordLevelTrainer}[kind]
    t.train_from_iterator(train,tr(vocab_size=9000 if kind=='uni' else 1500,show_progress=False,**k)); return t
C={}
def cfg(f): C[f.__name__]=f; return f
@cfg
def gpt2():
    t=bpe(); t.pre_tokenizer=P.ByteLevel(add_prefix_space=False); t.decoder=D.ByteLevel(); t.post_processor=X.ByteLevel(trim_offsets=False)
    return fit(t,'bpe',initial_alphabet=P.ByteLevel.alphabet(),special_tokens=['<|endoftext|>'])
@cfg
def roberta():
    t=bpe(); t.pre_tokenizer=P.ByteLevel(add_prefix_space=True); t.decoder=D.ByteLevel()
    fit(t,'bpe',initial_alphabet=P.ByteLevel.alphabet(),special_tokens=['<s>','</s>','<unk>','<mask>'])
    t.post_processor=X.RobertaProcessing(('</s>',1),('<s>',0)); t.add_special_tokens([AddedToken('<mask>',lstrip=True)]); return t
@cfg
def nfc_qwen():
    t=gpt2(); t.normalizer=N.NFC(); t.pre_tokenizer=P.Sequence([P.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),'isolated'),P.ByteLevel(add_prefix_space=False,use_regex=False)]); t.add_tokens(['hello','###',AddedToken('don\'t',single_word=True)]); return t
@cfg
def deepseek():
    t=gpt2(); t.pre_tokenizer=P.Sequence([P.Split(Regex(r"[\r\n]"),'isolated'),P.Split(Regex(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-Ⴥა-ჺჽ-ჿᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕ]+"),'isolated'),P.Split(Regex(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),'isolated'),P.Split(Regex(r"\s+$"),'isolated'),P.Split(Regex(r"[一-龥ࠀ-一가-퟿]+"),'isolated'),P.Digits(True),P.ByteLevel(add_prefix_space=False,use_regex=False)]); return t
@cfg
def o200k():
    t=gpt2(); t.pre_tokenizer=P.Sequence([P.Split(Regex(r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"),'removed',invert=True),P.ByteLevel(add_prefix_space=False,use_regex=False)]); return t
@cfg
def kimi():
    t=gpt2(); t.pre_tokenizer=P.Sequence([P.Split(Regex(r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),'isolated'),P.ByteLevel(add_prefix_space=False,use_regex=False)]); return t
@cfg
def llama2():
    t=bpe(byte_fallback=True,fuse_unk=True,unk_token='<unk>'); t.normalizer=N.Sequence([N.Prepend('▁'),N.Replace(' ','▁')])
    fit(t,'bpe',special_tokens=['<unk>','<s>','</s>']+['<0x%02X>'%i for i in range(256)],limit_alphabet=200)
    t.decoder=D.Sequence([D.Replace('▁',' '),D.ByteFallback(),D.Fuse(),D.Strip(' ',1,0)])
    t.post_processor=X.TemplateProcessing(single='<s> $A </s>',pair='<s> $A $B',special_tokens=[('<s>',1),('</s>',2)]); return t
@cfg
def gemma():
    t=llama2(); t.normalizer=N.Replace(' ','▁'); t.pre_tokenizer=P.Split(' ','merged_with_previous'); return t
@cfg
def mistral_metaspace():
    t=llama2(); t.normalizer=None; t.pre_tokenizer=P.Metaspace(prepend_scheme='first',split=False); return t
@cfg
def t5():
    t=Tokenizer(models.Unigram()); t.normalizer=N.Sequence([N.Nmt(),N.NFKC(),N.Replace(Regex(' {2,}'),' ')]); t.pre_tokenizer=P.Metaspace()
    fit(t,'uni',special_tokens=['<pad>','</s>','<unk>'],unk_token='<unk>'); t.decoder=D.Metaspace()
    t.post_processor=X.TemplateProcessing(single='$A </s>',pair='$A </s> $B </s>',special_tokens=[('</s>',1)]); return t
@cfg
def uni_first():
    t=t5(); t.normalizer=None; t.pre_tokenizer=P.Sequence([P.WhitespaceSplit(),P.Metaspace(prepend_scheme='first')]); return t
@cfg
def bert():
    t=Tokenizer(models.WordPiece(unk_token='[UNK]')); t.normalizer=N.BertNormalizer(); t.pre_tokenizer=P.BertPreTokenizer()
    fit(t,'wp',special_tokens=['[PAD]','[UNK]','[CLS]','[SEP]','[MASK]']); t.decoder=D.WordPiece()
    t.post_processor=X.BertProcessing(('[SEP]',3),('[CLS]',2)); return t
@cfg
def bert_cased():
    t=bert(); t.normalizer=N.BertNormalizer(lowercase=False,strip_accents=True,clean_text=False); t.add_tokens(['Hello',AddedToken('ABC',normalized=True)]); t.decoder=D.WordPiece(cleanup=False); return t
@cfg
def lower_added():
    t=bert(); t.normalizer=N.Sequence([N.NFD(),N.StripAccents(),N.Lowercase(),N.Strip()]); t.add_tokens([AddedToken('HELLO'),AddedToken('É',normalized=True),AddedToken('xx',rstrip=True,normalized=False)]); t.pre_tokenizer=P.Sequence([P.Whitespace(),P.Punctuation(),P.Digits()]); return t
@cfg
def wordlevel():
    t=Tokenizer(models.WordLevel(unk_token='[UNK]')); t.normalizer=N.NFKD(); t.pre_tokenizer=P.Sequence([P.UnicodeScripts(),P.Whitespace()])
    fit(t,'wl',special_tokens=['[UNK]']); return t
@cfg
def charsplit():
    t=wordlevel(); t.normalizer=N.Strip(left=False); t.pre_tokenizer=P.Sequence([P.CharDelimiterSplit('e'),P.Punctuation('contiguous'),P.FixedLength(3)]); return t
@cfg
def openai_gpt():
    t=bpe(unk_token='<unk>',end_of_word_suffix='</w>'); t.normalizer=N.BertNormalizer(); t.pre_tokenizer=P.BertPreTokenizer()
    fit(t,'bpe',special_tokens=['<unk>'],end_of_word_suffix='</w>'); t.decoder=D.BPEDecoder(suffix='</w>'); return t
@cfg
def cont_prefix():
    t=bpe(unk_token='<unk>',continuing_subword_prefix='@@',fuse_unk=False); t.pre_tokenizer=P.Whitespace()
    fit(t,'bpe',special_tokens=['<unk>'],continuing_subword_prefix='@@',limit_alphabet=100); return t
@cfg
def norm_bytelevel():
    t=bpe(); t.normalizer=N.ByteLevel(); t.pre_tokenizer=P.Split(Regex('Ġ'),'merged_with_next'); t.decoder=D.ByteLevel()
    return fit(t,'bpe',initial_alphabet=P.ByteLevel.alphabet(),special_tokens=['<|endoftext|>'])
@cfg
def merged():
    t=gpt2(); t.pre_tokenizer=P.Sequence([P.Split(',','merged_with_previous'),P.Split(Regex('[aeiou]+'),'merged_with_next'),P.Split(Regex('\\d'),'contiguous'),P.ByteLevel(add_prefix_space=True,use_regex=True)]); return t
@cfg
def ctc():
    t=wordlevel(); t.decoder=D.CTC(pad_token='a',word_delimiter_token='|'); return t
bad_total=0
for name,f in C.items():
    if only and name not in only: continue
    t=f(); path=os.path.join(folder,name+'.json'); t.save(path)
    for flags,special,add,offs in [([],True,False,True),(['--special','--add'],False,True,False)]:
        t.encode_special_tokens=special
        ref=t.encode_batch(lines,add_special_tokens=add)
        r=subprocess.run([tool,'encode',path]+flags+(['--offsets'] if offs else []),input=''.join(json.dumps(x)+'\n' for x in lines),capture_output=True,text=True)
        if r.returncode: print(name,'FAIL',r.stderr[:300]); bad_total+=1; break
        mine=[json.loads(l) for l in r.stdout.split('\n')[:-1]]
        ids=[m[0] for m in mine] if offs else mine
        bad=[i for i in range(len(lines)) if ids[i]!=ref[i].ids]
        offbad=[]
        if offs:
            for i in range(len(lines)):
                if ids[i]!=ref[i].ids: continue
                m={0:0};b=0
                for k,ch in enumerate(lines[i]):
                    b+=len(ch.encode()); m[b]=k+1
                mo=[(m.get(a,-1),m.get(e,-1)) for a,e in mine[i][1]]
                if mo!=ref[i].offsets: offbad.append((i,mo,ref[i].offsets))
        d=subprocess.run([tool,'decode',path],input=''.join(json.dumps(x)+'\n' for x in ids),capture_output=True,text=True)
        if d.returncode: print(name,'DECODE FAIL',d.stderr[:300]); bad_total+=1; dec=[]
        else: dec=[json.loads(l) for l in d.stdout.split('\n')[:-1]]
        dref=t.decode_batch(ids,skip_special_tokens=False) if dec else []
        dbad=[i for i in range(len(dec)) if dec[i]!=dref[i]]
        print(name,flags,'lines',len(lines),'id mismatches',len(bad),'offset',len(offbad),'decode',len(dbad)); bad_total+=len(bad)+len(offbad)+len(dbad)
        for i in bad[:2]:
            k=next(k for k in range(min(len(ids[i]),len(ref[i].ids))+1) if ids[i][k:k+1]!=ref[i].ids[k:k+1])
            print('   ',ascii(lines[i][:100]),k,ascii([t.id_to_token(x) for x in ids[i][max(0,k-2):k+4]]),ascii([t.id_to_token(x) for x in ref[i].ids[max(0,k-2):k+4]]))
        for i,a,b in offbad[:2]:
            k=next(k for k in range(len(a)) if a[k]!=b[k]); print('   OFF',ascii(lines[i][:60]),k,ascii(ref[i].tokens[k]),a[k],b[k])
        for i in dbad[:2]: print('   DEC',ascii(dec[i][:100]),ascii(dref[i][:100]))
print('TOTAL',bad_total)
sys.exit(1 if bad_total else 0)
